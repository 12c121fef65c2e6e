"""What happens to speech on its way, and sounds that are no speech: all made, none recorded.

Everything is drawn from a generator that `random_generator` seeds with names, so that the same
utterance is always changed in the same way. Waveforms are (N,) float32 in -1..1 at 16 kHz.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from asr.audio import load_audio

Waveform = NDArray[np.float32]
Random = np.random.Generator
Voices = Callable[[], Sequence[Waveform]]  # other people, read only if they are wanted

RATE = 16000
SNRS = (20, 10, 5)  # dB
BABBLE_VOICES = 8
TELEPHONE_BAND = (300.0, 3400.0)  # Hz
_EDGE = 50.0  # Hz in which a band's edge falls from 1 to 0
_MP3_LEVEL = (160 - 32) / (160 - 8)  # libsndfile: 0 is 160 kbit/s at 16 kHz, 1 is 8
_ACTIVE = 1e-3  # speech is what is less than 30 dB below the loud frames
_LOUDNESS = 0.1  # root mean square of sounds without speech: -20 dB of full scale
_EQUALIZER = 62.5 * 2.0 ** np.arange(8)  # Hz: octaves from 62.5 to 8000


@dataclass(frozen=True)
class Condition:
    """Something that happens to speech.

    Attributes:
        name: In tables and names of folders.
        seed: Conditions of the same seed get the same chance: noise that differs only in level.
        text: What it is.
        change: From a waveform to the one that is recognised.
    """

    name: str
    seed: str
    text: str
    change: Callable[[Waveform, Random, Voices], Waveform]

    def __call__(self, waveform: Waveform, name: str, voices: Voices) -> Waveform:
        """Change an utterance of that name."""
        return self.change(waveform, random_generator(self.seed, name), voices)


def random_generator(*names: str) -> Random:
    """Return a generator that depends on names alone."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def active_power(waveform: Waveform) -> float:
    """Return the mean square of the 20 ms frames that hold speech.

    These are less than 30 dB below the 95th percentile of all: pauses do not count, so that a
    recording with long ones gets no less noise.
    """
    size = min(RATE // 50, len(waveform))
    frames = waveform[: len(waveform) // size * size].reshape(-1, size).astype(np.float64)
    powers = np.square(frames).mean(axis=1)
    return float(powers[powers >= _ACTIVE * np.quantile(powers, 0.95)].mean())


def add_noise(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add noise (N,) at a ratio of the speech's active power to the noise's mean power.

    If the sum is louder than full scale, all of it is made softer: nothing is clipped.
    """
    power = float(np.square(noise, dtype=np.float64).mean())
    scale = np.sqrt(active_power(waveform) / (power * 10 ** (snr_db / 10))) if power else 0.0
    noisy = waveform + scale * noise
    return (noisy / max(1.0, np.abs(noisy).max())).astype(np.float32)


def shape_spectrum(
    waveform: Waveform, gain: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Waveform:
    """Multiply the spectrum with a function of the frequency in Hz; no delay."""
    padded = np.pad(waveform, (0, RATE // 10))  # what rings at the end must not reach the start
    frequencies = np.fft.rfftfreq(len(padded), 1 / RATE)
    shaped = np.fft.irfft(np.fft.rfft(padded) * gain(frequencies), len(padded))
    return shaped[: len(waveform)].astype(np.float32)


def coloured_noise(num_samples: int, chance: Random, exponent: float) -> Waveform:
    """Return noise whose power falls with that power of the frequency: 0 white, 1 pink, 2 brown."""
    white = chance.standard_normal(num_samples).astype(np.float32)
    return shape_spectrum(
        white, lambda f: np.where(f < 20, 0.0, np.maximum(f, 20) ** -(exponent / 2))
    )


def babble(num_samples: int, chance: Random, voices: Sequence[Waveform]) -> Waveform:
    """Return several voices at once, equally loud, each from somewhere on."""
    total = np.zeros(num_samples)
    for voice in voices:
        repeated = np.tile(voice, num_samples // len(voice) + 2)
        start = int(chance.integers(len(voice)))
        total += repeated[start : start + num_samples] / np.sqrt(active_power(voice) + 1e-12)
    return total.astype(np.float32)


def _noisy(kind: str, snr_db: float) -> Callable[[Waveform, Random, Voices], Waveform]:
    def change(waveform: Waveform, chance: Random, voices: Voices) -> Waveform:
        if kind == "babble":
            noise = babble(len(waveform), chance, voices())
        else:
            noise = coloured_noise(len(waveform), chance, {"white": 0, "pink": 1}[kind])
        return add_noise(waveform, noise, snr_db)

    return change


def telephone(waveform: Waveform, chance: Random, voices: Voices) -> Waveform:
    """Pass 300 to 3400 Hz, 8000 samples a second, 8-bit mu-law (ITU-T G.711)."""
    low, high = TELEPHONE_BAND

    def gain(f: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = np.minimum(f - (low - _EDGE), (high + _EDGE) - f) / _EDGE
        return np.asarray(np.clip(inside, 0.0, 1.0))

    narrow = soxr.resample(shape_spectrum(waveform, gain), RATE, 8000)
    return _through_file(narrow, 8000, format="WAV", subtype="ULAW")


def mp3(waveform: Waveform, chance: Random, voices: Voices) -> Waveform:
    """Pass MP3 of constant 32 kbit/s."""
    return _through_file(
        waveform, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=_MP3_LEVEL
    )


def _through_file(waveform: Waveform, rate: int, **settings: object) -> Waveform:
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), rate, **settings)
    file.seek(0)
    return load_audio(file, RATE)


def _room(seconds: float) -> Callable[[Waveform, Random, Voices], Waveform]:
    """Return a room in which sound falls by 60 dB in that time, as loud as the direct sound.

    After Polack: the response is noise that decays exponentially, from 3 ms after the direct
    sound on. Its energy is that of the direct sound.
    """

    def change(waveform: Waveform, chance: Random, voices: Voices) -> Waveform:
        time = np.arange(int(seconds * RATE)) / RATE
        tail = chance.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
        tail[: int(0.003 * RATE)] = 0.0
        response = tail / np.sqrt(np.square(tail).sum())
        response[0] = 1.0
        size = len(waveform) + len(response) - 1
        heard = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)
        return (heard / max(1.0, np.abs(heard).max())).astype(np.float32)

    return change


def microphone(waveform: Waveform, chance: Random, voices: Voices) -> Waveform:
    """Change each octave's loudness by up to 12 dB either way, differently in each utterance."""
    decibels = chance.uniform(-12, 12, len(_EQUALIZER))

    def gain(f: NDArray[np.float64]) -> NDArray[np.float64]:
        octaves = np.log2(np.maximum(f, 1.0))
        return np.asarray(10 ** (np.interp(octaves, np.log2(_EQUALIZER), decibels) / 20))

    coloured = shape_spectrum(waveform, gain)
    return coloured / np.float32(max(1.0, np.abs(coloured).max()))


def quiet(waveform: Waveform, chance: Random, voices: Voices) -> Waveform:
    """Make it softer by 30 dB and store it in 16 bits."""
    return (np.round(waveform * 10 ** (-30 / 20) * 32768) / 32768).astype(np.float32)


def clipped(waveform: Waveform, chance: Random, voices: Voices) -> Waveform:
    """Record it 12 dB too loud: all above a quarter of the peak is cut off."""
    peak = float(np.abs(waveform).max()) or 1.0
    return np.clip(waveform * np.float32(4 / peak), -1.0, 1.0)


CLEAN = Condition("clean", "", "as recorded", lambda waveform, chance, voices: waveform)
CONDITIONS = (
    CLEAN,
    Condition("telephone", "", "300–3400 Hz, 8 kHz, mu-law", telephone),
    *(
        Condition(f"{kind}-{snr}dB", kind, f"{text}, SNR {snr} dB", _noisy(kind, snr))
        for kind, text in (
            ("white", "white noise"),
            ("pink", "pink noise"),
            ("babble", f"{BABBLE_VOICES} other voices of the set"),
        )
        for snr in SNRS
    ),
    *(
        Condition(f"room-{seconds}s", "room", f"synthetic room, RT60 {seconds} s", _room(seconds))
        for seconds in (0.3, 0.6)
    ),
    Condition("mp3", "", "MP3, 32 kbit/s", mp3),
    Condition("microphone", "microphone", "synthetic microphones, ±12 dB an octave", microphone),
    Condition("quiet", "", "30 dB softer, 16 bits", quiet),
    Condition("clipped", "", "12 dB too loud, clipped", clipped),
)


def _colour(exponent: float) -> Callable[[int, Random], Waveform]:
    return lambda num_samples, chance: coloured_noise(num_samples, chance, exponent)


def hum(num_samples: int, chance: Random) -> Waveform:
    """Return the mains: 50 or 60 Hz with harmonics that fall, in a little noise."""
    time = np.arange(num_samples) / RATE
    base = chance.choice([50.0, 60.0])
    phases = chance.uniform(0, 2 * np.pi, 12)
    tones = sum(np.sin(2 * np.pi * base * (h + 1) * time + phases[h]) / (h + 1) for h in range(12))
    return (tones + 0.02 * chance.standard_normal(num_samples)).astype(np.float32)


def tone(pitch: float, num_samples: int, decay: float, vibrato: float = 0.0) -> Waveform:
    """Return a note: eight harmonics of a MIDI pitch with attack and decay (in 1/s)."""
    time = np.arange(num_samples) / RATE
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    phase = 2 * np.pi * frequency * time + vibrato * np.sin(2 * np.pi * 5.5 * time)
    harmonics = sum(np.sin(h * phase) / h for h in range(1, 9) if h * frequency < RATE / 2)
    envelope = np.minimum(time / 0.01, 1.0) * np.exp(-decay * time)
    return np.asarray(harmonics * envelope, np.float32)


def chords(num_samples: int, chance: Random) -> Waveform:
    """Return plucked triads, two a second."""
    parts = []
    for _ in range(-(-num_samples // (RATE // 2))):
        root, third = chance.integers(48, 72), chance.choice([3, 4])
        parts.append(sum(tone(root + step, RATE // 2, 3.0) for step in (0, third, 7)))
    return np.concatenate(parts)[:num_samples].astype(np.float32)


def melody(num_samples: int, chance: Random) -> Waveform:
    """Return one voice-like line: held notes with vibrato, as of a violin, in steps of a scale."""
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    parts: list[Waveform] = []
    place = int(chance.integers(0, 7))
    while sum(map(len, parts)) < num_samples:
        place = int(np.clip(place + chance.integers(-2, 3), -5, 12))
        pitch = 60 + 12 * (place // 7) + scale[place % 7]
        parts.append(tone(pitch, int(RATE * chance.choice([0.25, 0.5, 1.0])), 0.5, 0.3))
    return np.concatenate(parts)[:num_samples]


def band(num_samples: int, chance: Random) -> Waveform:
    """Return chords, melody, bass and a drum of noise together."""
    beat = RATE // 2
    beats = range(-(-num_samples // beat))
    bass = np.concatenate([tone(chance.integers(33, 45), beat, 4.0) for _ in beats])
    hits = [chance.standard_normal(beat) * np.exp(-30 * np.arange(beat) / RATE) for _ in beats]
    total = chords(num_samples, chance) + melody(num_samples, chance)
    return (total + bass[:num_samples] + np.concatenate(hits)[:num_samples]).astype(np.float32)


def crowd(num_samples: int, chance: Random) -> Waveform:
    """Return a murmur without voices: noise shaped like speech, loudness that wavers."""
    total = np.zeros(num_samples)
    for low, high, level in (
        (150, 500, 1.0),
        (500, 1000, 0.6),
        (1000, 2500, 0.3),
        (2500, 5000, 0.1),
    ):
        white = chance.standard_normal(num_samples).astype(np.float32)
        part = shape_spectrum(white, lambda f, a=low, b=high: ((f >= a) & (f < b)) * 1.0)
        slow = shape_spectrum(
            chance.standard_normal(num_samples).astype(np.float32), lambda f: (f < 4) * 1.0
        )
        total += level * part / part.std() * (1 + 0.5 * slow / slow.std()).clip(0)
    return total.astype(np.float32)


def clicks(num_samples: int, chance: Random) -> Waveform:
    """Return some four clicks a second, as of keys: bursts of a few milliseconds."""
    total = 1e-4 * chance.standard_normal(num_samples)
    for start in chance.integers(0, num_samples, 4 * num_samples // RATE):
        size = min(int(0.03 * RATE), num_samples - start)
        burst = chance.standard_normal(size) * np.exp(-np.arange(size) / RATE * 300)
        total[start : start + size] += burst * chance.uniform(0.3, 1.0)
    return total.astype(np.float32)


NON_SPEECH: dict[str, tuple[float, Callable[[int, Random], Waveform]]] = {
    # Name: loudness (root mean square), and how it is made.
    "digital silence": (0.0, _colour(0)),
    "faint white noise": (5e-4, _colour(0)),
    "white noise": (_LOUDNESS, _colour(0)),
    "pink noise": (_LOUDNESS, _colour(1)),
    "brown noise": (_LOUDNESS, _colour(2)),
    "mains hum": (_LOUDNESS, hum),
    "murmur without voices": (_LOUDNESS, crowd),
    "clicks": (_LOUDNESS / 4, clicks),
    "music: chords": (_LOUDNESS, chords),
    "music: melody": (_LOUDNESS, melody),
    "music: band": (_LOUDNESS, band),
}


def make_non_speech(kind: str, number: int, seconds: float) -> Waveform:
    """Return the recording of that number of a kind of `NON_SPEECH`, in 16 bits."""
    loudness, make = NON_SPEECH[kind]
    sound = make(int(seconds * RATE), random_generator(kind, str(number)))
    sound = sound * np.float32(loudness / (np.sqrt(np.square(sound).mean()) or 1.0))
    return (np.round(sound.clip(-1, 1) * 32767) / 32768).astype(np.float32)
