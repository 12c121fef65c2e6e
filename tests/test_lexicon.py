"""The pronunciation lexicon: its two files, words that it does not list, and its recipe."""

from __future__ import annotations

import gzip
import itertools
import lzma
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from asr.g2p import LetterToSound
from asr.lexicon import Lexicon, LexiconError

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "lexicon"))

import make as recipe

TEXT = """\
a	eɪ
b	b i
bat	b æ t
cat	k æ t
cat	k ɑː t
cat's	k æ t s
cats	k æ t s
chat	tʃ æ t
chats	tʃ æ t s
dog	d ɔː ɡ
dog's	d ɔː ɡ z
hat	h æ t
hat's	h æ t s
o'clock	ə k l ɑː k
ox	ɑː k s
phone	f oʊ n
phones	f oʊ n z
t	t i
that	ð æ t
incomprehensibly	ɪ n k ɑː m p ɹ ɪ h ɛ n s ɪ b l i
incomprehensible	ɪ n k ɑː m p ɹ ɪ h ɛ n s ɪ b ə l
"""


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lexicon") / "lexicon.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lexicon(text_file: Path) -> Lexicon:
    return Lexicon.read(text_file)


def names(lexicon: Lexicon, word: str) -> str:
    return " ".join(lexicon.phones[phone - 1] for phone in lexicon.pronounce(word))


def listed() -> dict[str, str]:
    """Return the first pronunciation of every word of the text."""
    entries: dict[str, str] = {}
    for line in TEXT.splitlines():
        entries.setdefault(*line.split("\t"))
    return entries


def test_phones_are_numbered_by_name_behind_the_blank(lexicon: Lexicon) -> None:
    assert lexicon.phones == tuple(sorted({p for said in listed().values() for p in said.split()}))
    assert lexicon.num_labels == len(lexicon.phones) + 1
    assert min(lexicon.encode(" ".join(lexicon.words))) == 1


def test_listed_words_are_said_as_listed(lexicon: Lexicon) -> None:
    assert {word: names(lexicon, word) for word in lexicon.words} == listed()
    assert len(lexicon) == len(listed())
    assert "cat" in lexicon and "incomprehensibly" in lexicon
    for word in ("ca", "catss", "incomprehensibl", "incomprehensiblyy", "", "CAT", "çat"):
        assert word not in lexicon


def test_other_words_are_said_by_their_letters(lexicon: Lexicon) -> None:
    assert names(lexicon, "hats") == "h æ t s"
    assert names(lexicon, "that's") == "ð æ t s"
    assert names(lexicon, "box") == "b ɑː k s"  # one letter, two phones
    assert names(lexicon, "dogz'") == names(lexicon, "dog")  # no z was ever seen
    assert names(lexicon, "phat") == "f æ t"  # two letters, one phone


def test_words_without_a_vowel_are_spelled(lexicon: Lexicon) -> None:
    assert names(lexicon, "bt") == "b i t i"
    assert names(lexicon, "tt's") != "t i t i ɛ s"  # s is not listed: no name is known
    assert names(lexicon, "bta") != "b i t i eɪ"


@pytest.mark.parametrize("word", ["", "'", "'''", "z", "żółć"[:1]])
def test_nothing_is_said_of_what_cannot_be_said(lexicon: Lexicon, word: str) -> None:
    assert lexicon.pronounce(word) == ()


def test_a_text_is_its_words_joined(lexicon: Lexicon) -> None:
    words = ["the", "cat's", "hat", "dog"]
    joined = [phone for word in words for phone in lexicon.pronounce(word)]
    assert lexicon.encode(" ".join(words)) == joined
    assert lexicon.encode("") == []


def test_many_words_at_once_are_said_as_one_by_one(lexicon: Lexicon) -> None:
    words = [*lexicon.words[::-1], "hats", "", "'", "bt", "incomprehensiblest", "cat", "x" * 300]
    padded, lengths = lexicon.pronunciations(words)
    assert padded.dtype == np.uint8 and padded.shape == (len(words), lengths.max())
    for word, row, length in zip(words, padded, lengths, strict=True):
        assert tuple(row[:length]) == lexicon.pronounce(word)
        assert not row[length:].any()
    padded, lengths = lexicon.pronunciations([])
    assert padded.shape == (0, 0) and lengths.shape == (0,)


def test_files_keep_everything(lexicon: Lexicon, tmp_path: Path) -> None:
    compact, text = tmp_path / "lexicon.safetensors", tmp_path / "lexicon.txt.xz"
    lexicon.save(compact)
    loaded = Lexicon.load(compact)
    recipe.write_text(text, {word: names(loaded, word).split() for word in loaded.words})
    lines = lzma.decompress(text.read_bytes()).decode().splitlines()
    assert dict(line.split("\t") for line in lines) == listed()
    unlisted = ["hats", "phat", "bt", "catch", "o'dog", "incomprehension"]
    for other in (loaded, Lexicon.read(text)):
        assert other.phones == lexicon.phones
        assert other.words == lexicon.words
        for word in [*lexicon.words, *unlisted]:
            assert other.pronounce(word) == lexicon.pronounce(word)
    Lexicon.read(text).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == compact.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {compact.name, text.name, "again"}


def test_phones_that_begin_words_may_be_other_ones(lexicon: Lexicon, tmp_path: Path) -> None:
    marked = lexicon.mark_initials()
    count = len(lexicon.phones)
    assert marked.num_labels == 2 * count + 1 == 2 * lexicon.num_labels - 1
    assert marked.label_names[: count + 1] == lexicon.label_names
    assert [marked.label_names[i] for i in marked.encode("cat's a")] == [
        "k_B", "æ", "t", "s", "eɪ_B"
    ]  # fmt: skip
    spelled = [marked.label_names[i] for i in marked.pronounce("bt")]
    assert spelled == ["b_B", "i", "t", "i"]  # letters of one word
    assert marked.pronounce("'") == ()
    marked.save(tmp_path / "compact")
    loaded = Lexicon.load(tmp_path / "compact")
    words = [*lexicon.words, "hats", "bt", "'", ""]
    assert loaded.label_names == marked.label_names
    padded, lengths = loaded.pronunciations(words)
    plain, _ = lexicon.pronunciations(words)
    assert (padded[:, 0] == plain[:, 0] + count * (lengths > 0)).all()
    assert (padded[:, 1:] == plain[:, 1:]).all()


def test_marked_phones_need_room(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("".join(f"a{'b' * i} p{i}\n" for i in range(128)), encoding="utf-8")
    with pytest.raises(ValueError, match="found 256 phones, wanted at most 255"):
        Lexicon.read(path).mark_initials()


@pytest.mark.parametrize("entry", ["incomprehensibly ɪ n k", "a eɪ", "z z"])
def test_a_lexicon_of_one_word(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text(entry, encoding="utf-8")
    lexicon = Lexicon.read(path)
    word, said = entry.split(" ", 1)
    assert names(lexicon, word) == said and len(lexicon) == 1
    lexicon.save(tmp_path / "compact")
    assert Lexicon.load(tmp_path / "compact").pronounce(word) == lexicon.pronounce(word)
    assert lexicon.pronounce("q") == ()
    assert "a" * 300 not in lexicon and "zz" not in lexicon and "incomprehensible" not in lexicon


def test_kaldis_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt.gz"
    kaldi = "<UNK> SPN\n!SIL SIL\n\nHELLO  HH AH0 L OW1\nHELLO HH EH0 L OW1\nworld(2) W\n"
    path.write_bytes(gzip.compress(kaldi.encode()))
    lexicon = Lexicon.read(path)
    assert lexicon.words == ["hello"]
    assert lexicon.phones == ("AH0", "HH", "L", "OW1")
    assert names(lexicon, "hello") == "HH AH0 L OW1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat k æ t\ndog\n", r"lexicon.txt:2: found 'dog' with 0 phones, wanted a word and 1 to"),
        ("<unk> SPN\n", "lexicon.txt: found 0 words with 0 different phones, wanted 1 to 255"),
        (f"{'a' * 256} a\n", "with 1 phones, wanted a word and 1 to 255 phones"),
        ("".join(f"a{'b' * i} p{i}\n" for i in range(254)) + "x q r s", "found 255 words with 257"),
        (b"caf\xe9 k\n", "lexicon.txt: cannot be read as a lexicon: 'utf-8' codec"),
    ],
)
def test_text_that_is_no_lexicon(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LexiconError, match=message):
        Lexicon.read(path)


@pytest.mark.parametrize("name", ["lexicon.txt", "lexicon.txt.gz", "lexicon.txt.xz"])
def test_text_that_is_missing_or_cut(tmp_path: Path, name: str) -> None:
    with pytest.raises(LexiconError, match=f"{name}: cannot be read as a lexicon: No such file"):
        Lexicon.read(tmp_path / name)
    recipe.write_text(tmp_path / name, {"cat": ["k", "æ", "t"]})
    if not name.endswith("txt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-10])
        with pytest.raises(LexiconError, match=f"{name}: cannot be read as a lexicon: "):
            Lexicon.read(tmp_path / name)


def test_compact_files_that_are_damaged(lexicon: Lexicon, tmp_path: Path) -> None:
    path = tmp_path / "lexicon.safetensors"
    with pytest.raises(LexiconError, match=f"{path.name}: not a lexicon: No such file"):
        Lexicon.load(path)
    lexicon.save(path)
    whole = path.read_bytes()
    tables = load_file(path)
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(LexiconError, match="lexicon.safetensors: not a lexicon: "):
            Lexicon.load(path)
    # Behind the header, the sums of the packed tables notice every changed byte.
    for place in range(whole.index(b"}}") + 40, len(whole), 41):
        changed = bytes([whole[place] ^ 1])
        path.write_bytes(whole[:place] + changed + whole[place + 1 :])
        with pytest.raises(LexiconError, match="lexicon.safetensors: not a lexicon: "):
            Lexicon.load(path)
    save_file(tables, path)
    with pytest.raises(LexiconError, match="found format None, wanted 'lexicon 1'"):
        Lexicon.load(path)
    save_file(tables, path, {"lexicon": '{"format": "lexicon 1", "phones": []}'})
    with pytest.raises(LexiconError, match="do not match"):
        Lexicon.load(path)
    for header in ("[]", "{", '{"format": "lexicon 1"}', '{"format": "lexicon 1", "phones": 1}'):
        save_file(tables, path, {"lexicon": header})
        with pytest.raises(LexiconError, match="lexicon.safetensors: not a lexicon: "):
            Lexicon.load(path)


def test_alignment_costs_least() -> None:
    """Against the enumeration of all ways to share phones out among letters."""
    from asr.g2p import _known_letters, _Pairs

    rng = np.random.default_rng(0)
    words = ["abc", "ab", "cab", "bacca", "c", "abba"]
    said = [[1, 2], [2], [3, 1, 2, 3], [], [1, 3], [3, 3, 1]]
    pairs = _Pairs.of(
        [(_known_letters(word), bytes(phones)) for word, phones in zip(words, said, strict=True)]
    )
    costs = rng.random((28, 4, 4))
    aligned = pairs.align(costs)
    for word, phones, row in zip(words, said, aligned, strict=True):
        letters = list(_known_letters(word))

        def cost(chunks: list[list[int]], letters: list[int] = letters) -> float:
            padded = [([*chunk, 0, 0])[:2] for chunk in chunks]
            return sum(
                costs[letter, one, two] for letter, (one, two) in zip(letters, padded, strict=True)
            )

        def split(counts: tuple[int, ...], phones: list[int] = phones) -> list[list[int]]:
            ends = list(itertools.accumulate(counts))
            return [phones[end - n : end] for end, n in zip(ends, counts, strict=True)]

        ways = [c for c in itertools.product(range(3), repeat=len(word)) if sum(c) == len(phones)]
        best = min(cost(split(counts)) for counts in ways)
        found = [[p for p in divmod(int(c), 4) if p] for c in row[: len(word)]]
        assert [p for chunk in found for p in chunk] == phones
        assert math.isclose(cost(found), best)


def test_letter_to_sound_knows_what_it_was_shown() -> None:
    """Windows that reach over whole words tell any two of them apart."""
    entries = {word: said.split() for word, said in listed().items() if len(word) < 7}
    ids = {p: i + 1 for i, p in enumerate(sorted({p for v in entries.values() for p in v}))}
    said = [[ids[phone] for phone in phones] for phones in entries.values()]
    sound = LetterToSound.fit(list(entries), said)
    assert sound.pronounce(list(entries)) == said


def test_letter_to_sound_without_words() -> None:
    assert LetterToSound.fit([], []).pronounce(["cat", ""]) == [[], []]


def test_words_of_texts_and_manifests(tmp_path: Path) -> None:
    text, manifest = tmp_path / "book.txt.xz", tmp_path / "train.jsonl"
    text.write_bytes(lzma.compress("“Don't!” said Café-owner O'Neil in 1999.\nboys'\n".encode()))
    manifest.write_text('{"audio_filepath": "a.wav", "duration": 1, "text": "a cat"}\n\n')
    assert recipe.read_words([text, manifest]) == (
        "a boys' cafe cat don't in o'neil owner said".split()
    )
    manifest.write_text('{"audio_filepath": "a.wav"}\n')
    with pytest.raises(ValueError, match="train.jsonl:1: found no text"):
        recipe.read_words([manifest])


def test_phones_are_folded() -> None:
    assert recipe.fold("f_ˈɑːɹ_ð_ɚ") == "f ɑː ɹ ð ɚ".split()
    assert recipe.fold("ˈæ_p_əl p_ˈaɪ") == "æ p ə l p aɪ".split()
    assert recipe.fold("") == []


def test_a_batch_is_halved_until_words_and_lines_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    def say(words: list[str]) -> list[str]:  # loses x, says y in two lines
        return [part for word in words for part in {"x": [], "y": ["y", "y"]}.get(word, [word])]

    monkeypatch.setattr(recipe, "ask_espeak", say)
    words = "a x b c d e f y y".split()
    assert recipe.transcribe(words) == ["a", "", *"bcdef", "y y", "y y"]


def test_the_recipe_converts_and_measures(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model" / "lexicon.safetensors"
    assert recipe.main(["--from-text", str(text_file), "--output", str(output)]) == 0
    assert Lexicon.load(output).words == Lexicon.read(text_file).words
    count = Lexicon.load(output).num_labels - 1
    assert f"{len(listed())} words, {count} phones" in capsys.readouterr().out
    marked = ["--from-text", str(output), "--word-initial", "--output", str(tmp_path / "marked")]
    assert recipe.main(marked) == 0
    assert f"{len(listed())} words, {2 * count} phones" in capsys.readouterr().out
    assert Lexicon.load(tmp_path / "marked").word_initial
    figures = recipe.measure(Lexicon.load(output), every=4)
    assert figures["words"] == 5
    assert 0 < figures["phone_error_rate"] < 1 and 0 <= figures["word_accuracy"] < 1


def test_the_recipe_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, output = tmp_path / "missing.txt", tmp_path / "lexicon.txt"
    for option in ("--from-text", "--words"):
        assert recipe.main([option, str(missing), "--output", str(output)]) == 2
        assert "missing.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        recipe.main(["--words", str(missing), "--word-initial", "--output", str(output)])
    assert "--word-initial: wanted with --from-text" in capsys.readouterr().err
    missing.write_text("some words")
    monkeypatch.setattr(recipe, "ESPEAK", ("espeak-of-nobody",))
    assert recipe.main(["--words", str(missing), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "espeak-of-nobody: not found, wanted for pronunciations; Debian's package" in error
    assert not output.exists()


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_espeak_says_words(tmp_path: Path) -> None:
    words, output = tmp_path / "words.txt", tmp_path / "lexicon.txt"
    words.write_text("The father's nature, o'clock\n' water\n")
    assert recipe.main(["--words", str(words), "--output", str(output)]) == 0
    assert output.read_text(encoding="utf-8").splitlines() == [
        "father's\tf ɑː ð ɚ z",
        "nature\tn eɪ tʃ ɚ",
        "o'clock\tə k l ɑː k",
        "the\tð ə",
        "water\tw ɔː ɾ ɚ",
    ]
