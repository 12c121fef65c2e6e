"""`recipes/librispeech/ablations.py`: one thing is changed at a time, tables come from figures."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "librispeech"
sys.path.insert(0, str(RECIPE))

import ablation_tables  # noqa: E402
import ablation_training  # noqa: E402
import ablations  # noqa: E402
from ablation_tables import FIGURES, MARKS, PAGE, SEARCH, TRAINING  # noqa: E402
from ablation_training import CONFIG, overrides_of  # noqa: E402
from techniques import (  # noqa: E402
    BASES,
    DEFAULT,
    TECHNIQUES,
    Base,
    Technique,
    Variant,
    base_of,
    variants_of,
)

from asr.checkpoint import WORD_MODEL, build_model, load_model, save_model  # noqa: E402
from asr.config import (  # noqa: E402
    Config,
    SearchConfig,
    SearchMethod,
    config_to_dict,
    load_config,
)
from asr.lexicon import Lexicon  # noqa: E402
from asr.report import read_hypotheses  # noqa: E402
from asr.run_report import settings_to_toml  # noqa: E402
from asr.score import paired_bootstrap, score_utterance  # noqa: E402
from asr.word_lm import NO_BACKOFF, WordNgramLM, WordTables  # noqa: E402

CHARACTERS = SearchConfig(beam_size=9, lm_weight=0.6, length_bonus=1.0)
WORDS = SearchConfig(
    method="words", beam_size=50, lm_weight=0.6, word_bonus=1.0, blank_penalty=2.0, rescore=4
)
WORD_LIST = {"a": [1], "be": [2, 1], "see": [3, 1], "tea": [2, 3], "the": [3]}
LEXICON = "a one\nb two\nc three\nd four\n"  # of the corpus of tones


def changed(config: Config, other: Config) -> set[str]:
    """Return the names of the settings in which two configurations differ."""
    tables, others = config_to_dict(config), config_to_dict(other)
    return {
        f"{section}.{name}"
        for section, table in tables.items()
        for name, value in table.items()
        if value != others[section][name]
    }


def of_technique(technique: Technique, steps: int | None = None) -> Config:
    return load_config(CONFIG, overrides_of(technique, steps))


def read(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def row(page: Path, text: str) -> list[str]:
    """Return the cells of a table's row."""
    lines = page.read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {text} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("default", [CHARACTERS, WORDS], ids=["characters", "words"])
def test_every_variant_is_another_search(default: SearchConfig) -> None:
    variants = variants_of(default.method)
    assert variants[0] is DEFAULT and DEFAULT.of(default) == default
    searches = [variant.of(default) for variant in variants]
    assert len(set(searches)) == len(searches)
    for attribute in ("name", "text"):  # of its folder, of its row
        assert len({getattr(variant, attribute) for variant in variants}) == len(variants)
    by_name = {variant.name: variant.of(default) for variant in variants}
    assert by_name["half_language_model"].lm_weight == pytest.approx(0.3)
    assert by_name["more_language_model"].lm_weight == pytest.approx(0.9)


def test_every_search_has_the_variants_that_mean_something_to_it() -> None:
    used = {  # settings that a method looks at
        "words": {
            "lm_weight",
            "word_bonus",
            "blank_penalty",
            "rescore",
            "rescore_weight",
            "recurrent_share",
            "ctc_weight",
            "beam_size",
            "margin",
        },
        "beam": {"lm_weight", "length_bonus", "ctc_weight", "beam_size"},
    }
    for method, names in (("words", used["words"]), ("beam", used["beam"])):
        same_method = [v for v in variants_of(method) if "method" not in v.changes]
        assert {name for v in same_method for name in (*v.changes, *v.factors)} == names
    # A model that cannot search over words is not asked to.
    assert "words" not in {v.changes.get("method") for v in variants_of("beam")}
    (characters,) = [v for v in variants_of("words") if v.name == "characters"]
    assert characters.of(WORDS).method == "beam"


def test_every_technique_is_another_training() -> None:
    for technique in TECHNIQUES:
        wanted = {override.split("=")[0] for override in technique.overrides}
        base = of_technique(base_of(technique))
        assert changed(of_technique(technique), base) == wanted, technique.name
    names = [technique.name for technique in (*BASES, *TECHNIQUES)]
    assert len(set(names)) == len(names)
    for base in BASES:
        texts = [t.text for t in TECHNIQUES if t.base == base.name]
        assert len(set(texts)) == len(texts) > 0, "a row each in the base's table"


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
def test_a_base_is_the_recipe_with_a_small_budget(base: Base) -> None:
    differs = changed(of_technique(base), load_config(CONFIG))
    assert "train.max_steps" in differs and "data.dev_manifests" in differs
    assert not [name for name in differs if name.startswith(("features.", "search."))]
    shorter = of_technique(base, 50).train
    assert (shorter.max_steps, shorter.warmup_steps, shorter.decay_steps) == (50, 5, 25)
    unlike = changed(of_technique(base, 50), of_technique(base))
    assert {name for name in unlike if not name.endswith(("_steps", "_every"))} == set()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[SearchConfig]:
    """Return a list that grows by the settings of each search that is measured."""
    searches: list[SearchConfig] = []
    original = ablations.recognise_beside

    def count(*arguments: Any) -> Any:
        searches.append(arguments[2])
        return original(*arguments)

    monkeypatch.setattr(ablations, "recognise_beside", count)
    return searches


SEARCH_COMMAND = [str(REPOSITORY / "data/tiny/test.jsonl"), "--limit", "5", "--results", "made"]
SOME = (  # the quick ones
    "greedy_ctc", "half_language_model", "no_length_bonus", "beam_1", "characters",
    "no_word_bonus", "no_second_pass", "second_pass_ctc", "beam_30",
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(method: SearchMethod) -> list[Variant]:
        return [v for v in variants_of(method) if v is DEFAULT or v.name in SOME]

    monkeypatch.setattr(ablations, "variants_of", some)


def test_the_search_is_measured_once_and_the_table_made_of_it(
    folder: Path, tiny_model_dir: Path, measured: list[SearchConfig], quick: None
) -> None:
    command = ["search", str(tiny_model_dir), *SEARCH_COMMAND]
    assert ablations.main(command) == 0
    figures = read(folder / "made" / FIGURES / SEARCH)
    # Without a language model nothing is left of its weight.
    assert figures["same_as_default"] == ["half_language_model", "no_length_bonus"]
    assert list(figures["variants"]) == ["default", "greedy_ctc", "beam_1"]
    assert len(measured) == 3
    default, other = (figures["variants"][name] for name in ("default", "greedy_ctc"))
    assert default["against"] is None and default["ratios"] == []
    assert len(other["ratios"]) == 5 and all(ratio > 0 for ratio in other["ratios"])
    difference = other["wer"] - default["wer"]
    assert other["against"]["difference"] == pytest.approx(difference)
    # The differences are those of the hypotheses that are kept.
    runs = folder / "runs/ablations/search" / tiny_model_dir.name / "test"
    counts = []
    for name in ("greedy_ctc", "default"):
        lines = (runs / name / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
        items = [json.loads(line) for line in lines]
        scored = [score_utterance(i["id"], i["reference"], i["hypothesis"]) for i in items]
        counts.append([item.words for item in scored])
    assert list(paired_bootstrap(*counts).interval) == other["against"]["interval"]
    page = folder / "made" / PAGE
    cells = row(page, "greedy CTC alone")
    assert cells[1].startswith(f"{100 * other['wer']:.2f} (")
    assert cells[2].startswith(f"{100 * difference:+.2f} (")
    assert row(page, "half the language model's weight")[1] == "the default itself"
    assert row(page, "beam size 48")[1] == row(page, "GRU instead of LSTM")[1] == "not run"
    assert (
        "search along characters, beam size 2, CTC weight 0.3, language model weight 0, length"
        in (page.read_text(encoding="utf-8"))
    )
    text = page.read_text(encoding="utf-8")
    page.unlink()
    assert ablations.main(["table", "--results", "made"]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_what_is_measured_is_kept_until_something_changes(
    folder: Path, tiny_model_dir: Path, measured: list[SearchConfig], quick: None
) -> None:
    command = ["search", str(tiny_model_dir), *SEARCH_COMMAND]
    assert ablations.main(command) == 0
    every = len(measured)
    before = read(folder / "made" / FIGURES / SEARCH)["variants"]
    runs = folder / "runs/ablations/search" / tiny_model_dir.name / "test"
    (runs / "greedy_ctc" / "result.json").unlink()  # as if it had been stopped there
    (runs / "beam_1" / "result.json").write_text("{", encoding="utf-8")
    del measured[:]
    assert ablations.main(command) == 0
    assert [(s.method, s.beam_size) for s in measured] == [("ctc", 2), ("beam", 1)]
    after = read(folder / "made" / FIGURES / SEARCH)["variants"]
    assert after["default"] == before["default"]
    assert after["beam_1"]["wer"] == before["beam_1"]["wer"]
    for changed_command in ([*command, "--again"], [*command, "--threads", "2"]):
        del measured[:]
        assert ablations.main(changed_command) == 0 and len(measured) == every
    del measured[:]
    assert ablations.main([*command[:3], "--limit", "4", *command[5:]]) == 0
    assert len(measured) == every, "other utterances"


@pytest.fixture
def words_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """Return a model of random weights that searches over five words."""
    listed = WORD_LIST
    size = len(listed) + 4
    tables = WordTables(
        np.log(np.full(size, 0.1, dtype=np.float32)), np.arange(size, dtype=np.int32),
        np.zeros(size, dtype=np.uint8), np.full(size + 1, size, dtype=np.int32),
        np.full(size, NO_BACKOFF, dtype=np.uint8),
    )  # fmt: skip
    config = load_model(tiny_model_dir).config
    model_config = replace(config.model, phone_labels=4)
    config = replace(config, model=model_config, search=replace(WORDS, nbest=3))
    torch.manual_seed(0)
    model, features, tokenizer = build_model(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3.0)
    save_model(
        tmp_path / "speller", model, features, tokenizer, config,
        lexicon=Lexicon.fit("xyz", listed), word_model=WordNgramLM(tuple(listed), tables),
    )  # fmt: skip
    return tmp_path / "speller"


def change_search(model: Path, **settings: Any) -> None:
    config = read(model / "config.json")
    config["search"].update(settings)
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_a_search_over_words_is_measured_as_it_is(
    folder: Path, words_dir: Path, measured: list[SearchConfig], quick: None
) -> None:
    command = ["search", str(words_dir), *SEARCH_COMMAND]
    assert ablations.main(command) == 0
    figures = read(folder / "made" / FIGURES / SEARCH)
    assert figures["default"]["method"] == "words" and figures["default"]["nbest"] == 1
    assert measured[0] == replace(WORDS, recurrent_share=0.0) and figures["same_as_default"] == []
    # The model has no character model; its language model of words keeps its weight.
    assert list(figures["variants"]) == [
        "default", "greedy_ctc", "half_language_model", "no_word_bonus", "no_second_pass",
        "second_pass_ctc", "beam_30",
    ]  # fmt: skip
    assert len(figures["variants"]["no_second_pass"]["ratios"]) == 5
    assert set(figures["files"]) >= {"model.safetensors", "lexicon.safetensors", WORD_MODEL}
    page = folder / "made" / PAGE
    text = page.read_text(encoding="utf-8")
    assert (
        "The default: search over words, beam size 50, margin 11.25, language model weight 0.6, "
        "word bonus 1, blank penalty 2, the best 4 texts weighed again by decoder and CTC over "
        "characters (of which it has 0.3) with weight 0.3. It"
    ) in text
    assert row(page, "beam size 3000")[1] == "not run" and "| without length bonus |" not in text
    (words_dir / "lexicon.safetensors").touch()  # nothing changed
    del measured[:]
    assert ablations.main(command) == 0 and not measured
    other = Lexicon.fit("xyz", {"a": [2], "be": [2, 1], "see": [3, 1], "tea": [2, 3], "the": [3]})
    other.save(words_dir / "lexicon.safetensors")
    assert ablations.main(command) == 0
    assert len(measured) == 7, "another lexicon"


def test_what_a_default_never_weighs_again_is_not_measured_as_weighed_again(
    folder: Path, words_dir: Path, quick: None
) -> None:
    change_search(words_dir, rescore_weight=0.0)
    assert ablations.main(["search", str(words_dir), *SEARCH_COMMAND]) == 0
    figures = read(folder / "made" / FIGURES / SEARCH)
    assert figures["same_as_default"] == ["no_second_pass"]
    page = folder / "made" / PAGE
    assert "blank penalty 2, nothing weighed again. It" in page.read_text(encoding="utf-8")


def test_a_model_that_can_search_over_words_may_be_set_to_characters(
    words_dir: Path,
) -> None:
    for method in ("beam", "ctc", "greedy"):
        change_search(words_dir, method=method)
        default = ablations.default_of(load_model(words_dir))
        assert (default.method, default.nbest, default.lm_weight) == ("beam", 1, 0.0)


def test_words_that_are_not_there_are_one_line(
    folder: Path, words_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (words_dir / WORD_MODEL).unlink()
    assert ablations.main(["search", str(words_dir), *SEARCH_COMMAND]) == 2
    error = capsys.readouterr().err
    assert "speller: search method 'words': the model has no lexicon or" in error
    assert error.count("\n") == 1 and not (folder / "made" / FIGURES / SEARCH).exists()


@pytest.fixture
def tones(folder: Path, tone_manifest: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a network that learns tones in seconds in the recipe's place; return a command."""
    config = tiny_config(tone_manifest, folder / "unused", max_steps=4, log_every=1)
    # As many convolutions as the techniques are written for.
    config = replace(config, model=replace(config.model, conv_channels=(8, 8, 8)))
    (folder / "config.toml").write_text(
        settings_to_toml(json.loads(json.dumps(config_to_dict(config)))), encoding="utf-8"
    )
    for base in BASES:
        (folder / f"{base.name}.toml").write_text("[data]\ndev_manifests = []\n", "utf-8")
    monkeypatch.setattr(ablation_training, "CONFIG", folder / "config.toml")
    monkeypatch.setattr(ablation_training, "DIFFERENCES", folder)
    arguments = ["train", "--manifest", str(tone_manifest), "--limit", "6", "--results", "made"]
    return [*arguments, "--only", "gru", "no_label_smoothing"]


def test_training_is_judged_and_goes_on_where_it_stood(
    folder: Path, tones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from asr import train

    calls: list[list[str]] = []
    original = train.main

    def main(arguments: list[str]) -> int:
        calls.append(arguments)
        return original(arguments)

    monkeypatch.setattr(train, "main", main)
    assert ablations.main(tones) == 0
    known = read(folder / "made" / FIGURES / TRAINING)["techniques"]
    assert list(known) == ["hearing", "spelling", "gru", "no_label_smoothing"] and len(calls) == 4
    assert set(known["hearing"]["ways"]) == set(known["gru"]["ways"]) == {"ctc"}, "without phones"
    assert set(known["spelling"]["ways"]) == set(known["no_label_smoothing"]["ways"]) == {"greedy"}
    runs = folder / "runs/ablations/training"
    assert load_model(runs / "gru" / "last").config.model.encoder_cell == "gru"
    for name, base, way in (
        ("gru", "hearing", "ctc"),
        ("no_label_smoothing", "spelling", "greedy"),
    ):
        figures, of_base = (known[run]["ways"][way] for run in (name, base))
        assert of_base["against"] is None
        assert len(read_hypotheses(runs / f"{base}/{way}.hypotheses.jsonl")) == 6
        assert figures["against"]["difference"] == pytest.approx(figures["wer"] - of_base["wer"])
    assert known["gru"]["updates"] == 4 and known["gru"]["processor_seconds"] > 0
    assert "model.encoder_cell=gru" in known["gru"]["command"]
    page = folder / "made" / PAGE
    assert row(page, "GRU instead of LSTM")[1] == "–", "no phones to search words by"
    assert row(page, "GRU instead of LSTM")[2].count("(") == 2
    assert row(page, "without label smoothing")[1].count("(") == 2
    assert row(page, "dropout 0.3 instead of 0.1")[1:] == ["not run"] * 5
    # Nothing is trained or judged again; a run that was stopped goes on from its state.
    assert ablations.main(tones) == 0 and len(calls) == 4
    assert read(folder / "made" / FIGURES / TRAINING)["techniques"] == known
    (runs / "gru" / "last").rename(runs / "gru" / "gone")
    assert ablations.main(tones) == 0 and len(calls) == 5
    assert calls[-1][-1] == "train.resume=true"
    again = read(folder / "made" / FIGURES / TRAINING)["techniques"]["gru"]
    assert again["ways"] == known["gru"]["ways"]


def test_no_row_is_lost_while_runs_are_judged_again(
    folder: Path, tones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ablations.main(tones) == 0
    known = read(folder / "made" / FIGURES / TRAINING)["techniques"]
    runs = folder / "runs/ablations/training"
    for name in known:
        (runs / name / "result.json").unlink()
    original = ablation_training.judge

    def stopped_at_the_last(run: Path, *arguments: Any) -> Any:
        if run.name == list(known)[-1]:
            raise KeyboardInterrupt
        return original(run, *arguments)

    monkeypatch.setattr(ablation_training, "judge", stopped_at_the_last)
    assert ablations.main(tones) == 130
    assert read(folder / "made" / FIGURES / TRAINING)["techniques"] == known


def test_a_run_on_other_frozen_weights_than_its_base_is_refused(
    folder: Path, tones: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = '[data]\ndev_manifests = []\n[train]\nfreeze = ["encoder"]\n'
    (folder / "spelling.toml").write_text(settings, encoding="utf-8")
    command = [*tones[: tones.index("--only")], "--only", "no_label_smoothing"]
    assert ablations.main(command) == 0
    weights = folder / "runs/ablations/training/spelling/last/model.safetensors"
    other = load_model(weights.parent).model.state_dict()
    other["encoder.front_end.norm.bias"] += 1
    bundle = load_model(weights.parent)
    bundle.model.load_state_dict(other)
    save_model(weights.parent, bundle.model, bundle.features, bundle.tokenizer, bundle.config)
    assert ablations.main(command) == 2
    error = capsys.readouterr().err
    assert "found another encoder.front_end.norm.bias than in" in error


def test_a_network_with_phones_is_searched_along_words(
    folder: Path, words_dir: Path, tones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.checkpoint.DEFAULT_MODEL", words_dir)  # the shipped one
    lexicon = words_dir / "lexicon.safetensors"
    phones = Technique("phones", "with phones", (f"data.lexicon={lexicon}",))
    for module in (ablation_training, ablation_tables):
        monkeypatch.setattr(module, "TECHNIQUES", (phones,))
    command = tones[: tones.index("--only")]
    assert ablations.main(command) == 0
    known = read(folder / "made" / FIGURES / TRAINING)["techniques"]
    assert list(known) == ["hearing", "phones"], "nothing is held against the other base"
    last = folder / "runs/ablations/training/phones/last"
    assert load_model(last).word_decoder is None, "judged with words that it has not itself"
    assert set(known["phones"]["ways"]) == {"words", "ctc"}
    heard = read_hypotheses(last.parent / "words.hypotheses.jsonl")
    assert {word for text in heard.values() for word in text.split()} <= set(WORD_LIST)
    cells = row(folder / "made" / PAGE, "with phones")
    assert cells[1].count("(") == 1, "the base, without phones, has nothing to hold it against"
    assert cells[2].count("(") == 2
    assert ablations.main(command) == 0, "the run that is there is taken"
    assert read(folder / "made" / FIGURES / TRAINING)["techniques"] == known


def test_other_phones_than_the_shipped_ones_are_refused(
    folder: Path, tones: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (folder / "lexicon.txt").write_text(LEXICON, encoding="utf-8")
    phones = Technique("phones", "with phones", ("data.lexicon=lexicon.txt",))
    for module in (ablation_training, ablation_tables):
        monkeypatch.setattr(module, "TECHNIQUES", (phones,))
    assert ablations.main(tones[: tones.index("--only")]) == 2
    assert "found other phones than the shipped model has" in capsys.readouterr().err


def test_a_lexicon_that_is_not_there_is_named_before_the_work(
    folder: Path, tones: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "hearing.toml").write_text('[data]\nlexicon="no/lexicon.safetensors"\n', "utf-8")
    command = [*tones[: tones.index("--only")], "--only", "no_phones", "no_speed"]
    assert ablations.main(command) == 2
    error = capsys.readouterr().err
    assert "technique no_speed: " in error and "lexicon.safetensors" in error
    assert error.count("\n") == 1 and not (folder / "runs").exists()


def test_a_stopped_training_ends_the_program_with_its_code(
    folder: Path, tones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.train.main", lambda _: 143)
    assert ablations.main(tones) == 143
    assert not (folder / "made" / FIGURES / TRAINING).exists()


def test_a_try_stays_away_from_the_results(
    folder: Path, tones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "RECIPE", folder / "recipe")
    at = tones.index("--results")
    command = [*tones[:at], "--only", "gru", "--steps", "2"]
    assert ablations.main(command) == 0
    assert not (folder / "recipe").exists()
    made = folder / "runs/ablations/training_2_updates"
    assert row(made / PAGE, "GRU instead of LSTM")[2].count("(") == 2
    assert read(made / FIGURES / TRAINING)["techniques"]["gru"]["updates"] == 2


def test_a_run_with_other_settings_is_not_taken(
    folder: Path, tones: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablations.main(tones) == 0
    capsys.readouterr()
    (folder / "hearing.toml").write_text("[train]\nseed = 7\n[data]\ndev_manifests=[]\n", "utf-8")
    assert ablations.main(tones) == 2
    error = capsys.readouterr().err
    assert "training/hearing: found a run with train.seed=1, wanted other" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere", SEARCH_COMMAND[0]], "nowhere: found no config.json"),
        (["search", "MODEL", "nowhere.jsonl"], "nowhere.jsonl"),
        (["search", "MODEL", "empty.jsonl"], "empty.jsonl: found 0 utterances"),
        (["search", "MODEL", "broken.jsonl"], "gone.wav: no such file"),
        (["train", "--manifest", "nowhere.jsonl"], "nowhere.jsonl"),
        (["train", "--only", "magic"], "--only: found 'magic', wanted one of"),
        (["train", "--steps", "0"], "found '0', wanted a whole number above 0"),
        (["table"], "damaged/ablations/search.json: no readable figures"),
    ],
)
def test_errors_are_one_line(
    folder: Path,
    tiny_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (folder / "empty.jsonl").touch()
    (folder / "broken.jsonl").write_text(
        '{"audio_filepath": "gone.wav", "duration": 1, "text": "a"}\n', encoding="utf-8"
    )
    results = "damaged" if arguments == ["table"] else "made"
    (folder / "damaged" / FIGURES).mkdir(parents=True)
    (folder / "damaged" / FIGURES / SEARCH).write_text('{"variants": {}}', encoding="utf-8")
    command = [str(tiny_model_dir) if item == "MODEL" else item for item in arguments]
    try:
        code = ablations.main([*command, "--results", results])
    except SystemExit as stop:  # the parser's
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1, error
    assert not (folder / results / FIGURES / TRAINING).exists()


def test_a_page_without_marks_is_named_before_the_work(
    folder: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "made").mkdir()
    (folder / "made" / PAGE).write_text("# Results\n", encoding="utf-8")
    assert ablations.main(["search", str(tiny_model_dir), *SEARCH_COMMAND]) == 2
    assert "ablations of the search: begin" in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_the_tables_that_ship_are_made_from_the_figures_that_ship() -> None:
    text = (RECIPE / PAGE).read_text(encoding="utf-8")
    for part, name, make in (
        ("search", SEARCH, ablation_tables.search_table),
        ("training", TRAINING, ablation_tables.training_tables),
    ):
        path = RECIPE / FIGURES / name
        begin, end = MARKS[part]
        made = make(read(path) if path.exists() else None)
        assert text.split(begin)[1].split(end)[0].strip() == made.strip()
