"""Make data/tiny, a small corpus of our own: sentences of a toy grammar, read by synthetic voices.

    sudo apt-get install flite espeak-ng
    python scripts/make_tiny_corpus.py            # writes data/tiny again, a few minutes
    python scripts/make_tiny_corpus.py --check    # checksums, and a sample spoken again

Sentences, voices and encoding are fixed, so the same versions of the programs give the same
bytes; other versions give the same sentences in audio that sounds nearly the same.
"""

import hashlib
import io
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.arguments import Parser
from asr.audio import SAMPLE_RATE, load_audio
from asr.manifest import Utterance, read_manifest, write_manifest

FOLDER = Path(__file__).parent.parent / "data" / "tiny"
SPLITS = ("test", "dev", "train")  # in this order: train avoids the sentences of the others
SEED = 1
MARGIN = 0.12  # seconds of silence kept at both ends
COMPRESSION = 0.98  # of libsndfile's Opus encoder: about 12 kbit/s

WORDS = {
    "switch": "on off",
    "device": "light lamp radio fan heater",
    "room": "kitchen garden bedroom office",
    "openclose": "open close",
    "opening": "door window gate box",
    "colour": "red green blue yellow black white",
    "animal": "cat dog fox horse",
    "verb": "sleeps waits jumps runs",
    "place": "under behind near",
    "weather": "cold warm sunny windy",
    "fall": "rain snow",
    "time": "today tomorrow tonight",
    "daypart": "morning evening",
    "quality": "quiet cold warm",
    "person": "mother brother sister",
    "number": "one two three four five six seven eight nine ten",
    "several": "two three four five six seven eight nine ten",
    "digit": "zero one two three four five six seven eight nine",
    "unit": "minutes hours",
    "plural": "birds apples books cups",
}
SENTENCES = """
turn {switch} the {device} in the {room}
please turn {switch} the {colour} {device}
don't turn {switch} the {device} {time}
{openclose} the {colour} {opening} in the {room}
please {openclose} the {opening} {place} the {room}
don't {openclose} the {colour} {opening}
the {colour} {animal} {verb} {place} the {opening}
my {animal} {verb} in the {room} {time}
the {animal} {verb} and the {animal} {verb}
the {device} and the {device} are {switch}
the {animal} and the {animal} are in the {room}
it's very {weather} {time} in the {room}
it's {weather} and {weather} in the {room}
it will {fall} at {number} in the {daypart}
it will {fall} for {several} {unit}
{time} it will {fall} at {number}
the {room} is very {quality} {time}
the {room} is {quality} in the {daypart}
set the {room} timer for {several} {unit}
my {person} has {several} {colour} {plural}
my {person} is in the {room} {time}
i see {several} {plural} {place} the {opening}
call my {person} at {number} in the {daypart}
call {digit} {digit} {digit} {digit} {digit}
{several} {colour} {plural} and {several} {plural}
""".strip().splitlines()


@dataclass(frozen=True)
class Speaker:
    """A voice of flite or espeak-ng and how it is used."""

    split: str
    name: str
    voice: str  # a voice of flite, or voice+variant of espeak-ng
    count: int  # utterances
    speed: int = 165  # words a minute; flite: per cent of its own length
    pitch: int = 50  # espeak-ng's 0..99
    shift: float = 1.0  # playing speed: moves pitch and formants alike, another throat

    @property
    def engine(self) -> str:
        return "espeak-ng" if "+" in self.voice else "flite"


SPEAKERS = (
    Speaker("test", "flite-rms", "rms", 45, speed=90),
    Speaker("test", "us-m2", "en-us+m2", 63, speed=160),
    Speaker("test", "rp-f3", "en-gb-x-rp+f3", 63, speed=165),
    Speaker("dev", "nyc-m6", "en-us-nyc+m6", 43, speed=155),
    Speaker("dev", "gb-f4", "en-gb+f4", 43, speed=165),
    Speaker("train", "flite-kal", "kal16", 68, speed=108),
    Speaker("train", "flite-kal-low", "kal16", 68, speed=105, shift=0.92),
    Speaker("train", "flite-awb", "awb", 68, speed=105),
    Speaker("train", "flite-awb-low", "awb", 68, speed=96, shift=0.86),
    Speaker("train", "flite-slt", "slt", 68, speed=98),
    Speaker("train", "flite-slt-low", "slt", 68, speed=92, shift=0.88),
    Speaker("train", "flite-slt-deep", "slt", 68, speed=80, shift=0.77),
    Speaker("train", "us-m1", "en-us+m1", 48, speed=160),
    Speaker("train", "us-f1", "en-us+f1", 48, speed=170),
    Speaker("train", "us-m3", "en-us+m3", 48, speed=150, pitch=40),
    Speaker("train", "us-f3", "en-us+f3", 48, speed=160, pitch=60),
    Speaker("train", "us-f4", "en-us+f4", 48, speed=175),
    Speaker("train", "gb-m2", "en-gb+m2", 48, speed=160),
    Speaker("train", "gb-f2", "en-gb+f2", 48, speed=165, pitch=45),
    Speaker("train", "rp-m4", "en-gb-x-rp+m4", 48, speed=170),
    Speaker("train", "rp-f1", "en-gb-x-rp+f1", 48, speed=155),
    Speaker("train", "scotland-m6", "en-gb-scotland+m6", 48, speed=160),
    Speaker("train", "caribbean-m7", "en-029+m7", 48, speed=155, pitch=60),
    Speaker("train", "nyc-f2", "en-us-nyc+f2", 48, speed=160),
)


def plan_corpus() -> list[tuple[Speaker, str, str]]:
    """Write the sentences: (speaker, id, text) of every utterance, always the same."""
    chance = random.Random(SEED)
    elsewhere: set[str] = set()  # sentences of the splits before
    plan = []
    for split in SPLITS:
        said = set(elsewhere)
        for speaker in SPEAKERS:
            if speaker.split != split:
                continue
            counts: Counter[str] = Counter()
            own: set[str] = set()
            # Only train may hold a sentence twice, by two speakers.
            avoid = elsewhere if split == "train" else said
            for number in range(1, speaker.count + 1):
                text = _write_sentence(chance, counts, avoid | own)
                own.add(text)
                plan.append((speaker, f"{speaker.name}-{number:03d}", text))
            said |= own
        elsewhere = said
    return plan


def _write_sentence(chance: random.Random, counts: Counter[str], avoid: set[str]) -> str:
    """Write a new sentence of the templates and words that this speaker has used least."""
    while True:
        template = min(SENTENCES, key=lambda name: counts[name] + 1.5 * chance.random())
        words: list[str] = []
        for part in template.split():
            if part.startswith("{"):
                choices = [word for word in WORDS[part[1:-1]].split() if word not in words]
                part = min(choices, key=lambda word: counts[word] + 2.5 * chance.random())
            words.append(part)
        counts[template] += 1  # also when in vain: the template may be used up
        text = " ".join(words)
        if text not in avoid:
            counts.update(words)
            return text


def require_voices() -> None:
    """Leave with a message if a program that speaks is missing."""
    missing = [name for name in ("flite", "espeak-ng") if shutil.which(name) is None]
    if missing:
        sys.exit(
            f"found no {' and no '.join(missing)}, wanted both programs that speak: "
            "sudo apt-get install flite espeak-ng"
        )


def speak(speaker: Speaker, text: str) -> np.ndarray:
    """Return the text as this speaker says it: (N,) at 16 kHz, trimmed, of a level of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/speech.wav"
        if speaker.engine == "flite":
            stretch = ["--setf", f"duration_stretch={speaker.speed / 100}"]
            command = ["flite", "-voice", speaker.voice, *stretch, "-t", text, "-o", path]
        else:
            manner = ["-s", str(speaker.speed), "-p", str(speaker.pitch)]
            command = ["espeak-ng", "-v", speaker.voice, *manner, "-w", path, text]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        waveform = load_audio(path)
    if speaker.shift != 1.0:
        waveform = soxr.resample(waveform, round(SAMPLE_RATE * speaker.shift), SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(waveform) > 0.02 * np.abs(waveform).max())
    margin = round(MARGIN * SAMPLE_RATE)
    waveform = waveform[max(0, loud[0] - margin) : loud[-1] + margin]
    # Peaks from 0.3 to 0.8, told by the text, as no two recordings have the same level.
    level = 0.3 + 0.5 * hashlib.sha256(text.encode()).digest()[0] / 255
    return (waveform * (level / np.abs(waveform).max())).astype(np.float32)


def encode(waveform: np.ndarray) -> bytes:
    """Encode as Ogg Opus whose bytes depend on the sound alone."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer, waveform, SAMPLE_RATE, "OPUS", format="OGG", compression_level=COMPRESSION
    )
    pages = list(_ogg_pages(buffer.getvalue()))
    # libsndfile pads the comments to 800 bytes, a fifth of such a short file.
    vendor = b"tiny"
    tags = b"OpusTags" + struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", 0)
    pages[1] = (pages[1][0], bytes([len(tags)]), tags)
    return b"".join(_ogg_page(*page) for page in pages)


def _ogg_pages(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Split an Ogg stream into (head, segment sizes, body) of its pages."""
    place = 0
    while place < len(content):
        head, count = content[place : place + 26], content[place + 26]
        sizes = content[place + 27 : place + 27 + count]
        place += 27 + count
        yield head, sizes, content[place : place + sum(sizes)]
        place += sum(sizes)


def _ogg_page(head: bytes, sizes: bytes, body: bytes) -> bytes:
    """Join a page, with serial number 1 in place of libsndfile's random one."""
    head = head[:14] + struct.pack("<I", 1) + head[18:22]
    rest = bytes([len(sizes)]) + sizes + body
    return head + struct.pack("<I", _ogg_checksum(head + bytes(4) + rest)) + rest


def _ogg_checksum(page: bytes) -> int:
    checksum = 0
    for byte in page:
        checksum = (checksum << 8 & 0xFFFFFFFF) ^ _CHECKSUMS[checksum >> 24 ^ byte]
    return checksum


def _checksum_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = value << 1 ^ (0x104C11DB7 if value & 0x80000000 else 0)
        table.append(value)
    return table


_CHECKSUMS = _checksum_table()


def make_corpus(folder: Path) -> None:
    """Speak and write everything: audio, manifests, checksums."""
    require_voices()
    shutil.rmtree(folder / "audio", ignore_errors=True)
    utterances: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    plan = plan_corpus()
    for number, (speaker, name, text) in enumerate(plan, start=1):
        path = folder / "audio" / speaker.name / f"{name}.opus"
        path.parent.mkdir(parents=True, exist_ok=True)
        waveform = speak(speaker, text)
        path.write_bytes(encode(waveform))
        duration = round(len(waveform) / SAMPLE_RATE, 4)
        utterances[speaker.split].append(Utterance(str(path), duration, text, speaker.name, name))
        print(f"\r{number} of {len(plan)}", end="", file=sys.stderr, flush=True)
    for split, items in utterances.items():
        write_manifest(folder / f"{split}.jsonl", items)
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests(folder).items())
    (folder / "SHA256SUMS").write_text(sums)
    for split, items in utterances.items():
        minutes = sum(item.duration for item in items) / 60
        print(f"\n{split}: {len(items)} utterances, {minutes:.1f} min", end="", file=sys.stderr)
    print(file=sys.stderr)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but SHA256SUMS, by its path in `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.name != "SHA256SUMS"
    }


def check_files(folder: Path) -> list[str]:
    """Compare the files with SHA256SUMS; return what is wrong."""
    listed = {}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        listed[name] = digest
    found = digests(folder)
    wrong = [f"{name}: missing" for name in sorted(listed.keys() - found.keys())]
    wrong += [f"{name}: not in SHA256SUMS" for name in sorted(found.keys() - listed.keys())]
    both = sorted(listed.keys() & found.keys())
    return wrong + [f"{name}: other content" for name in both if listed[name] != found[name]]


def check_speech(folder: Path, every: int) -> tuple[int, list[str]]:
    """Speak every `every`-th utterance again; return how many are the same bytes, and what differs.

    Audio of another version of the encoder passes if it correlates with what is there.
    """
    same, wrong = 0, []
    for speaker, name, text in plan_corpus()[::every]:
        path = folder / "audio" / speaker.name / f"{name}.opus"
        content = encode(speak(speaker, text))
        if content == path.read_bytes():
            same += 1
            continue
        with tempfile.NamedTemporaryFile(suffix=".opus") as file:
            file.write(content)
            file.flush()
            ours, theirs = load_audio(file.name), load_audio(path)
        size = min(len(ours), len(theirs))
        likeness = float(np.corrcoef(ours[:size], theirs[:size])[0, 1])
        if abs(len(ours) - len(theirs)) > 160 or likeness < 0.9:
            wrong.append(f"{name}: spoken again it has a correlation of {likeness:.2f}")
    return same, wrong


def check_plan(folder: Path) -> list[str]:
    """Compare the manifests with the sentences that the grammar writes."""
    wrong = []
    for split in SPLITS:
        written = [(u.speaker, u.id, u.text) for u in read_manifest(folder / f"{split}.jsonl")]
        planned = [(s.name, name, text) for s, name, text in plan_corpus() if s.split == split]
        if written != planned:
            wrong.append(f"{split}.jsonl: other sentences than the grammar writes")
    return wrong


def main() -> int:
    parser = Parser(description="Make or check data/tiny.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: data/tiny")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--every", type=int, default=25, help="of how many --check speaks one")
    options = parser.parse_args()
    if not options.check:
        make_corpus(options.folder)
        return 0
    wrong = check_files(options.folder) + check_plan(options.folder)
    for line in wrong:
        print(line)
    print(f"checksums and sentences: {len(wrong)} wrong")
    require_voices()
    same, differ = check_speech(options.folder, options.every)
    for line in differ:
        print(line)
    print(f"spoken again: {same} the same bytes, {len(differ)} differ")
    return 1 if wrong or differ else 0


if __name__ == "__main__":
    sys.exit(main())
