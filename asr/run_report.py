"""The report of a training run, finished or not: its curves, figures, settings and transcripts.

    python -m asr.run_report runs/tiny

reads ``log.jsonl`` and ``config.json`` in the run's folder and writes ``report.md``, with the
pictures and the settings (``config.toml``) in ``report/``. Training does so at its end.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from asr import distributed, plot
from asr.arguments import Parser
from asr.config import Config, config_from_dict, config_to_dict
from asr.monitor import LOG, PICTURES
from asr.plot import Curve
from asr.report import describe_machine, percent, transcripts_to_markdown, write_whole

REPORT, SETTINGS = "report.md", "config.toml"
METHODS = {"ctc": "greedy CTC", "greedy": "greedy attention"}
LOSSES = {
    "ctc": "CTC",
    "attention": "attention (cross-entropy)",
    "guide": "attention's distance from CTC",
    "total": "total",
}
WORST_WER = 110.0  # percent: a decoder that loops would make all the rest flat

Record = dict[str, Any]


@dataclass(frozen=True)
class RunLog:
    """What a run has logged, without the steps that were done again after a crash.

    Attributes:
        starts: Where processes began or resumed the run, all of them; empty in logs of old.
        train: Losses, learning rate and the like, by increasing step.
        dev: Error rates on the dev utterances, by increasing step.
        seconds: Wall time, without the pauses between processes.
        processor_seconds: Time of the first process on processors; 0 in logs of old.
    """

    starts: tuple[Record, ...]
    train: tuple[Record, ...]
    dev: tuple[Record, ...]
    seconds: float
    processor_seconds: float

    @property
    def step(self) -> int:
        """Last step of which anything is known."""
        return max((int(record["step"]) for record in (*self.train, *self.dev)), default=0)


def describe_start(model: nn.Module, notes: Sequence[str]) -> Record:
    """Return what a process that begins or resumes a run logs of itself.

    Args:
        model: The network.
        notes: What was said of the data.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    values = {"processes": distributed.world_size(), "parameters": parameters}
    return {**values, "notes": list(notes), **describe_machine()}


def read_log(path: Path) -> RunLog:
    """Read a log.

    A run that was killed goes on from its last state and logs some steps again: the later lines
    hold. A line that was cut off in the middle is left out.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}), wanted a run's log"
        ) from error
    kept: dict[str, list[Record]] = {"start": [], "train": [], "dev": []}
    seconds = processor = 0.0
    before: Record | None = None
    for record in _parse(lines):
        kind, step = record["kind"], record["step"]
        if kind == "start":
            first_again = step + 1
        else:
            seconds += _passed(before, record, "time")
            processor += _passed(before, record, "processor")
            again = kept[kind] and kept[kind][-1]["step"] >= step
            first_again = step if again else step + 1
        for old in (kept["train"], kept["dev"]):
            while old and old[-1]["step"] >= first_again:
                old.pop()
        kept[kind].append(record)
        before = record
    starts, train, dev = (tuple(kept[kind]) for kind in ("start", "train", "dev"))
    return RunLog(starts, train, dev, seconds, processor)


def _passed(before: Record | None, record: Record, clock: str) -> float:
    """Return the seconds between two records of one process; 0 where a clock is not known."""
    if before is None or not (clock in record and clock in before):
        return 0.0
    return max(0.0, float(record[clock]) - float(before[clock]))


def _parse(lines: Sequence[str]) -> Iterator[Record]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("kind") in ("start", "train", "dev"):
            if isinstance(record.get("step"), int) and isinstance(record.get("time"), int | float):
                yield record


def write_run_report(folder: Path) -> Path:
    """Write the report of a run; each of its files appears whole or not at all.

    Args:
        folder: The run's.

    Returns:
        Where the report is.

    Raises:
        ValueError: The folder lacks the log or the configuration.
    """
    log = read_log(folder / LOG)
    settings = _read_settings(folder / "config.json")
    pictures = folder / PICTURES
    pictures.mkdir(exist_ok=True)
    write_whole(pictures / SETTINGS, settings_to_toml(settings))
    if plot.available():
        for name, figure in draw_curves(log, settings):
            write_whole(pictures / f"{name}.png", plot.to_png(figure))
    write_whole(folder / REPORT, to_markdown(folder, log, settings))
    return folder / REPORT


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return config_to_dict(config_from_dict(settings))
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise ValueError(f"{path}: {found}, wanted a run's configuration") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: wanted a run's configuration as JSON ({error})") from error


def settings_to_toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the settings that differ from the defaults, as `asr.config` reads them again."""
    defaults = json.loads(json.dumps(config_to_dict(Config())))
    lines: list[str] = []
    for section, values in settings.items():
        changed = {
            name: value
            for name, value in values.items()
            if value != defaults.get(section, {}).get(name) and name != "resume"
        }
        if changed:
            lines += ["", f"[{section}]"]
            lines += [f"{name} = {_to_toml(value)}" for name, value in changed.items()]
    return "\n".join(lines[1:]) + "\n"


def _to_toml(value: Any) -> str:
    # JSON's strings, booleans and arrays are TOML's; its infinity is not.
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def draw_curves(
    log: RunLog, settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """Yield the name and the figure of each group of curves of which something was logged."""
    joins = settings["train"].get("ctc_only_steps", 0)
    events = {"decoder joins": joins} if 0 < joins <= log.step else {}
    if curves := _loss_curves(log.train):
        yield (
            "losses",
            plot.plot_curves(
                curves, "Training losses", "nats a character", noisy=True, events=events
            ),
        )
    if curves := _wer_curves(log.dev):
        yield "wer", plot.plot_curves(
            curves, "Word error rate on the dev utterances, with 95 % interval", "WER (%)",
            events=events, mark_lowest=True, top=WORST_WER,
        )  # fmt: skip
    clip = settings["train"].get("gradient_clip")
    limits = {f"clipped to {clip:g}": clip} if clip else {}
    for name, title, unit in (
        ("learning_rate", "Learning rate", "learning rate"),
        ("gradient_norm", "Norm of the gradient before clipping", "gradient norm"),
        ("audio_hours_per_hour", "Speed of training", "hours of audio an hour"),
    ):
        if curve := _curve(log.train, name, title):
            norm = name == "gradient_norm"
            yield name, plot.plot_curves(
                [curve], title, unit, noisy=name != "learning_rate", log_scale=norm,
                limits=limits if norm else {},
            )  # fmt: skip


def _curve(records: Sequence[Record], name: str, label: str, scale: float = 1.0) -> Curve | None:
    found = [r for r in records if isinstance(r.get(name), int | float)]
    if not found:
        return None
    low, high = (
        [scale * r[end] for r in found] if all(end in r for r in found) else []
        for end in (f"{name}_low", f"{name}_high")
    )
    return Curve(label, [r["step"] for r in found], [scale * r[name] for r in found], low, high)


def _loss_curves(records: Sequence[Record]) -> list[Curve]:
    """Return the curves of the losses; those of the decoder begin where it joins."""
    curves = []
    for name, label in LOSSES.items():
        real = [r for r in records if r.get(name)]  # 0 is a part that is off
        if name == "total":  # without the decoder it is the loss of CTC, and hides it
            real = [r for r in real if r.get("attention")]
        if curve := _curve(real, name, label):
            curves.append(curve)
    return curves


def _wer_curves(records: Sequence[Record]) -> list[Curve]:
    curves = [_curve(records, f"wer_{m}", label, 100.0) for m, label in METHODS.items()]
    return [curve for curve in curves if curve]


def to_markdown(folder: Path, log: RunLog, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the report as Markdown.

    Args:
        folder: The run's; pictures that lie in its ``report/`` are shown.
        log: What it has logged.
        settings: Its configuration as plain data.
    """
    parts = [
        f"# Training run {folder.name}",
        _table(_facts(log, settings)),
        *_picture_parts(folder),
        *_transcript_parts(log),
        "## Settings that differ from the defaults",
        f"```toml\n{settings_to_toml(settings)}```",
        "## Commands",
        f"```\n{chr(10).join(_commands(folder, log, settings))}\n```",
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _facts(log: RunLog, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the rows of the table of figures."""
    total = settings["train"]["max_steps"]
    last = log.train[-1] if log.train else {}
    facts = {"state": "finished" if log.step >= total else "running or interrupted"}
    for method, label in METHODS.items():
        if best := best_validation(log, method):
            facts[f"best WER, {label}"] = _rate_to_text(best, method)
    facts["steps"] = f"{log.step} of {total}, {last.get('skipped', 0)} updates skipped"
    facts["epochs"] = f"in the {_ordinal(int(last.get('epoch', 0)) + 1)}"
    facts["audio trained on"] = _audio_hours(log)
    sessions = f", in {len(log.starts)} sessions" if len(log.starts) > 1 else ""
    facts["wall time"] = f"{_duration(log.seconds)}{sessions}"
    if rates := [r["audio_hours_per_hour"] for r in log.train if "audio_hours_per_hour" in r]:
        facts["speed"] = f"{statistics.median(rates):.1f} hours of audio an hour (median)"
    for name in ("train", "dev"):
        if manifests := settings["data"].get(f"{name}_manifests"):
            facts[f"{name} manifests"] = ", ".join(f"`{m}`" for m in manifests)
    if log.starts:
        facts |= _start_facts(log.starts[-1])
    return facts


def best_validation(log: RunLog, method: str) -> Record | None:
    """Return the validation with the lowest WER of a decoding method."""
    found = [record for record in log.dev if f"wer_{method}" in record]
    return min(found, key=lambda record: float(record[f"wer_{method}"]), default=None)


def _rate_to_text(record: Record, method: str) -> str:
    interval = ""
    if f"wer_{method}_low" in record:
        low, high = record[f"wer_{method}_low"], record[f"wer_{method}_high"]
        interval = f" (95 % interval {percent(low)} to {percent(high)})"
    cer = f", CER {percent(record[f'cer_{method}'])} %" if f"cer_{method}" in record else ""
    return f"{percent(record[f'wer_{method}'])} %{interval}{cer}, at step {record['step']}"


def _audio_hours(log: RunLog) -> str:
    if log.train and "audio_hours" in log.train[-1]:
        return f"{log.train[-1]['audio_hours']:.2f} h"
    # Logs of old: every record covers the same number of steps, hence about the same time.
    times = [record["time"] for record in log.train]
    gaps = [after - before for before, after in pairwise(times)]
    rates = [record.get("audio_hours_per_hour", 0.0) for record in log.train]
    return f"about {sum(rates) * statistics.median(gaps) / 3600:.1f} h" if gaps else "not known"


def _start_facts(start: Record) -> dict[str, str]:
    machine, versions = start.get("machine", {}), start.get("versions", {})
    facts = {"data": "; ".join(start.get("notes", []))}
    if "parameters" in start:
        facts["parameters"] = f"{start['parameters'] / 1e6:.2f} million"
    if machine:
        facts["machine"] = (
            f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, "
            f"{machine['system']}; processes: {start.get('processes', 1)}, "
            f"threads of each: {machine['threads']}"
        )
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    facts["started"] = start.get("date", "")
    return {name: text for name, text in facts.items() if text}


def _picture_parts(folder: Path) -> list[str]:
    parts = []
    titles = {
        "wer": "Word error rate", "losses": "Losses", "learning_rate": "Learning rate",
        "gradient_norm": "Gradient norm", "audio_hours_per_hour": "Audio-hours an hour",
        "attention-1": "Attention", "attention-2": "Attention", "augmentation": "Augmentation",
    }  # fmt: skip
    for name, title in titles.items():
        if (folder / PICTURES / f"{name}.png").is_file():
            parts.append(f"![{title}]({PICTURES}/{name}.png)")
    if not plot.available():
        parts.append(f"{plot.MISSING}; with it, `python -m asr.run_report {folder}` draws them.")
    return ["## Curves and pictures", *parts] if parts else []


def _transcript_parts(log: RunLog) -> list[str]:
    parts = []
    for method, label in METHODS.items():
        name = f"examples_{method}"
        shown = [record for record in log.dev if record.get(name)]
        if shown:
            parts.append(f"## Sample transcripts, {label}, step {shown[-1]['step']}")
            parts.append(transcripts_to_markdown(shown[-1][name]))
    return parts


def _commands(
    folder: Path, log: RunLog, settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    processes = log.starts[-1].get("processes", 1) if log.starts else 1
    python = "python" if processes == 1 else f"torchrun --standalone --nproc-per-node={processes}"
    total = settings["train"]["max_steps"]
    more = f" max_steps={2 * total}" if log.step >= total else ""
    yield f"# {'train for longer' if more else 'resume'}"
    settings_file = shlex.quote(str(folder / PICTURES / SETTINGS))
    yield f"{python} -m asr.train {settings_file} resume=true{more}"
    for manifest in settings["data"].get("dev_manifests", []):
        yield "# evaluate the best model"
        model = shlex.quote(str(folder / "model"))
        yield f"python -m asr.benchmark {shlex.quote(manifest)} --model {model}"
    yield "# write this report anew"
    yield f"python -m asr.run_report {shlex.quote(str(folder))}"


def _table(facts: Mapping[str, str]) -> str:
    rows = [f"| {name} | {text.replace('|', '/')} |" for name, text in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _ordinal(number: int) -> str:
    teen = 10 <= number % 100 < 20
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(prog="python -m asr.run_report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="train.output_dir of a run")
    options = parser.parse_args(arguments)
    for run in options.runs:
        try:
            print(write_run_report(Path(run)))
        except (ValueError, OSError) as error:
            print(f"asr.run_report: {error}", file=sys.stderr)
            return 2
        if not plot.available():
            print(f"asr.run_report: {plot.MISSING}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
