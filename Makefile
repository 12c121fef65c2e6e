# make demo   a transcript of real speech        make test   the tests, offline
# make lint   ruff and mypy                      make gate   the word error rate gates of CI
# The first of them makes the environment .venv; PYTHON=/path/to/python chooses another Python.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint gate setup clean
.DEFAULT_GOAL := demo

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup.sh
	@scripts/setup.sh "$(VENV)"
	@touch "$@"

demo: $(STAMP)
	@echo
	@echo "Transcribing the recordings in data/demo with the model inside the package:"
	@echo "    $(BIN)/python -m asr.transcribe data/demo/*.flac"
	@echo
	@"$(BIN)/python" -m asr.transcribe data/demo/*.flac
	@echo
	@echo "What was really said:"
	@cat data/demo/*.txt
	@echo
	@echo "Try it on your own recordings (wav, flac, ogg, opus, mp3):"
	@echo "    $(BIN)/python -m asr.transcribe --help"
	@echo "Train a model of your own: see README.md; recipes/tiny takes less than five minutes."

test: $(STAMP)
	@"$(BIN)/python" -m pytest $(PYTEST_FLAGS)

lint: $(STAMP)
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/mypy"

gate: $(STAMP)
	@PYTHON="$(BIN)/python" scripts/gate.sh

# The environment and the results in runs/ stay: they are expensive to make again.
clean:
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find asr recipes scripts tests -name __pycache__ -type d -exec rm -rf {} + 2>/dev/null || true
