"""Connectionist temporal classification: loss, greedy decoding, forced alignment, prefix scores.

Everywhere `log_probs` is (B, S, V), natural log, padded on the right; `lengths` (B,) counts the
frames that are real. What stands in padded frames never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Log-probabilities below this count as this much. It is under anything a float32 softmax gives,
# and keeps the cumulative sums of the prefix scorer finite.
_LOG_FLOOR = -1000.0


def ctc_loss(
    log_probs: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    token_lengths: Tensor,
    blank_id: int = 0,
) -> Tensor:
    """Return the CTC loss of each utterance, -log P(tokens), in nats.

    Args:
        log_probs: (B, S, V) log-probabilities of the labels.
        lengths: (B,) frames of each utterance.
        tokens: (B, U) texts, padded with anything.
        token_lengths: (B,) tokens of each text.
        blank_id: The label for "nothing here".

    Returns:
        (B,) float32. Utterances with too few frames for their text (see `ctc_feasible`) give a
        loss and a gradient of zero, so that one bad item does not spoil a batch.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    _check_shapes(log_probs, lengths, tokens, token_lengths)
    # Padding may hold any id; the loss wants ids that exist.
    padded = _positions(tokens) >= token_lengths.to(tokens.device)[:, None]
    losses: Tensor = functional.ctc_loss(
        log_probs.float().transpose(0, 1),  # (S, B, V)
        tokens.masked_fill(padded, blank_id),
        lengths,
        token_lengths,
        blank=blank_id,
        reduction="none",
        zero_infinity=True,
    )
    return losses


def ctc_feasible(tokens: Tensor, token_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Tell which utterances have enough frames to emit their text.

    Every token needs a frame, and every token equal to the one before it a blank between them.

    Args:
        tokens: (B, U) texts, padded with anything.
        token_lengths: (B,) tokens of each text.
        lengths: (B,) frames of each utterance.

    Returns:
        (B,) bool.
    """
    inside = _positions(tokens)[:, 1:] < token_lengths[:, None]
    repeats = ((tokens[:, 1:] == tokens[:, :-1]) & inside).sum(1)
    return token_lengths + repeats <= lengths


def greedy_decode(log_probs: Tensor, lengths: Tensor, blank_id: int = 0) -> list[list[int]]:
    """Take the best label of every frame, merge repeats and drop blanks.

    Args:
        log_probs: (B, S, V) scores of the labels.
        lengths: (B,) frames of each utterance.
        blank_id: The label for "nothing here".

    Returns:
        One list of token ids for each utterance.
    """
    return [tokens for tokens, _ in greedy_decode_scored(log_probs, lengths, blank_id)]


def greedy_decode_scored(
    log_probs: Tensor, lengths: Tensor, blank_id: int = 0
) -> list[tuple[list[int], list[float]]]:
    """Return the tokens of `greedy_decode` with the score of each where it is first emitted."""
    scores, labels = (found.cpu() for found in log_probs.max(-1))  # (B, S)
    emitted = _run_starts(labels, blank_id) & (_positions(labels) < lengths.cpu()[:, None])
    return [
        (row[keep].tolist(), score[keep].tolist())
        for row, score, keep in zip(labels, scores, emitted, strict=True)
    ]


@torch.no_grad()
def forced_align(
    log_probs: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    token_lengths: Tensor,
    blank_id: int = 0,
) -> Tensor:
    """Find the frame in which the best CTC path emits each token.

    A path may stay on a token for several frames; the one with its largest probability counts.
    The Viterbi search is torchaudio's, on the CPU, one utterance a call.

    Args:
        log_probs: (B, S, V) log-probabilities of the labels.
        lengths: (B,) frames of each utterance.
        tokens: (B, U) texts, padded with anything.
        token_lengths: (B,) tokens of each text.
        blank_id: The label for "nothing here".

    Returns:
        (B, U) int64 frame indices, strictly increasing along a text; -1 on padding and in
        utterances with too few frames for their text or a NaN in their log-probabilities. On the
        device of `log_probs`.

    Raises:
        ValueError: If the shapes do not fit each other, or a text holds the blank.
    """
    labels = best_paths(log_probs, lengths, tokens, token_lengths, blank_id)
    scores = log_probs.detach().float().cpu()
    return peak_frames(scores, labels, tokens.shape[1], blank_id).to(log_probs.device)


@torch.no_grad()
def best_paths(
    log_probs: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    token_lengths: Tensor,
    blank_id: int = 0,
) -> Tensor:
    """Find the most probable CTC path that spells each text.

    Arguments and errors are those of `forced_align`.

    Returns:
        (B, S) labels on the CPU, in the type of `tokens`; all blank where `forced_align` gives -1.
    """
    from torchaudio import functional as audio_functional  # costs start-up time

    _check_shapes(log_probs, lengths, tokens, token_lengths)
    scores = log_probs.detach().float().cpu()
    texts = tokens.cpu()
    labels = torch.full(scores.shape[:2], blank_id, dtype=texts.dtype)  # (B, S)
    # torchaudio's search leaves its path unset when it meets a NaN.
    finite = ~scores.isnan().flatten(1).any(dim=1)
    feasible = (ctc_feasible(texts, token_lengths.cpu(), lengths.cpu()) & finite).tolist()
    sizes = zip(lengths.tolist(), token_lengths.tolist(), strict=True)
    for row, (frames, count) in enumerate(sizes):
        if feasible[row] and count:
            path, _ = audio_functional.forced_align(
                scores[row : row + 1, :frames], texts[row : row + 1, :count], blank=blank_id
            )
            labels[row, :frames] = path[0]
    return labels


def peak_frames(scores: Tensor, labels: Tensor, num_tokens: int, blank_id: int) -> Tensor:
    """Return for the n-th run of `labels` (B, S) its most probable frame: (B, num_tokens) or -1."""
    run = _run_starts(labels, blank_id).cumsum(1) - 1  # (B, S), run that a frame belongs to
    # A spare last column collects the blanks.
    run = torch.where(labels == blank_id, num_tokens, run)
    score = scores.gather(2, labels[..., None])[..., 0]
    best = scores.new_full((len(labels), num_tokens + 1), -torch.inf)
    best.scatter_reduce_(1, run, score, "amax")
    num_frames = labels.shape[1]
    frame = torch.where(score == best.gather(1, run), _positions(labels), num_frames)
    first = torch.full((len(labels), num_tokens + 1), num_frames)
    first.scatter_reduce_(1, run, frame, "amin")
    return torch.where(first == num_frames, -1, first)[:, :num_tokens]


def _run_starts(labels: Tensor, blank_id: int) -> Tensor:
    """Mark the frames of `labels` (B, S) that begin a token: not blank, and not as before."""
    before = functional.pad(labels[:, :-1], (1, 0), value=blank_id)[:, : labels.shape[1]]
    return (labels != blank_id) & (labels != before)


def _positions(padded: Tensor) -> Tensor:
    """Return 0, 1, 2 ... along the second axis of `padded`, as (1, length)."""
    return torch.arange(padded.shape[1], device=padded.device)[None]


def _check_shapes(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> None:
    if log_probs.ndim != 3 or tokens.ndim != 2:
        raise ValueError(
            f"CTC: log_probs of shape {tuple(log_probs.shape)} and tokens of shape "
            f"{tuple(tokens.shape)}; wanted (B, S, V) and (B, U)"
        )
    sizes = (len(log_probs), len(lengths), len(tokens), len(token_lengths))
    if len(set(sizes)) != 1:
        raise ValueError(
            f"CTC: {sizes} items in log_probs, lengths, tokens and token_lengths; "
            "wanted the same number in each"
        )


@dataclass(frozen=True, slots=True)
class CTCPrefixState:
    """What the alignments of each hypothesis come to, frame by frame, natural log, float64.

    Column t of `spelled` is the log-probability that the first t frames spell exactly the
    hypothesis; of its two rows, the second counts only those that end in a blank: (N, 2, S + 1).
    """

    spelled: Tensor
    last: Tensor  # (N,) last tokens
    prefix_log_probs: Tensor | None  # (N, V) of the hypotheses one token longer; None at sos


class CTCPrefixScorer:
    """Scores a next token by how much it lowers the CTC probability of the prefix.

    The probability of a prefix is that of all label sequences that begin by spelling it
    (Graves, "Supervised sequence labelling with recurrent neural networks", 2012, section
    7.5.1; Watanabe et al., "Hybrid CTC/attention architecture", 2017). Their loop over
    frames is solved in closed form, so that a step is one matrix product for all tokens and
    two cumulative sums, of any number of hypotheses at once.

    It follows `asr.search.Scorer`.

    Args:
        log_probs: (B, S, V) log-probabilities of the labels.
        lengths: (B,) frames of each utterance.
        blank_id: The label for "nothing here"; as a next token it scores -inf.
        eos_id: Its score is that of ending the text here.
        sos_id: If given, scores -inf as a next token. The search blocks it anyway.

    Raises:
        ValueError: If the shapes do not fit each other.
    """

    def __init__(
        self,
        log_probs: Tensor,
        lengths: Tensor,
        blank_id: int,
        eos_id: int,
        sos_id: int | None = None,
    ) -> None:
        if log_probs.ndim != 3 or lengths.shape != log_probs.shape[:1]:
            raise ValueError(
                f"CTC prefix scores: log_probs of shape {tuple(log_probs.shape)} and lengths of "
                f"shape {tuple(lengths.shape)}; wanted (B, S, V) and (B,)"
            )
        self.blank_id, self.eos_id, self.sos_id = blank_id, eos_id, sos_id
        self.lengths = lengths.to(log_probs.device)
        self._batch = len(lengths)
        padded = _positions(log_probs) >= self.lengths[:, None]  # (B, S)
        label_first = log_probs.detach().transpose(1, 2).double()  # (B, V, S)
        label_first = label_first.masked_fill(padded[:, None], -torch.inf)
        # Behind the last frame nothing comes: (B, S + 1, V).
        self._probs = functional.pad(label_first.exp().transpose(1, 2), (0, 0, 0, 1)).contiguous()
        self._cumulative = functional.pad(label_first.clamp(min=_LOG_FLOOR).cumsum(2), (1, 0))
        first = torch.arange(self._batch, device=log_probs.device) * log_probs.shape[2]
        self._first_label = first[:, None]
        forbidden = {blank_id} if sos_id is None else {blank_id, sos_id}
        self._forbidden = torch.tensor(sorted(forbidden), device=log_probs.device)

    @torch.no_grad()
    def initial_state(self, beam_size: int) -> CTCPrefixState:
        """Return the state of B * `beam_size` empty hypotheses."""
        blank = self._rows(self._cumulative[:, self.blank_id], beam_size * self._batch)
        return CTCPrefixState(
            spelled=torch.stack([blank, blank], 1),
            last=torch.full((len(blank),), self.blank_id, device=blank.device),
            prefix_log_probs=None,
        )

    @torch.no_grad()
    def score(self, tokens: Tensor, state: CTCPrefixState) -> tuple[Tensor, CTCPrefixState]:
        """Extend each hypothesis by a token and score what may follow.

        Args:
            tokens: (N,) the last tokens, sos at first; N = B * beam_size.
            state: Of the hypotheses without these tokens.

        Returns:
            (N, V) float64 increments of the log-probability, at most 0 but for rounding, and
            the state of the longer hypotheses.
        """
        if state.prefix_log_probs is None:
            prefix = torch.zeros(len(tokens), 1, dtype=torch.float64, device=tokens.device)
            spelled, last = state.spelled, state.last
        else:
            prefix = state.prefix_log_probs.gather(1, tokens[:, None])  # (N, 1)
            spelled, last = self._extend(tokens, state), tokens
        longer = self._prefix_log_probs(spelled, last)
        longer[:, self.eos_id] = spelled[:, 0].gather(1, self._ends(len(tokens)))[:, 0]
        longer.index_fill_(1, self._forbidden, -torch.inf)
        # An impossible prefix has no possible continuation, and -inf - -inf would be NaN.
        longer.masked_fill_(prefix == -torch.inf, -torch.inf)
        increments = longer - prefix.clamp(min=-1e300)
        return increments, CTCPrefixState(spelled, last, longer)

    def reorder(self, state: CTCPrefixState, index: Tensor) -> CTCPrefixState:
        """Return a state whose row n continues row `index[n]` of `state`."""
        longer = state.prefix_log_probs
        return CTCPrefixState(
            state.spelled.index_select(0, index),
            state.last.index_select(0, index),
            None if longer is None else longer.index_select(0, index),
        )

    def _extend(self, tokens: Tensor, state: CTCPrefixState) -> Tensor:
        """Return `spelled` (N, 2, S + 1) of the hypotheses longer by `tokens`."""
        # A token equal to the last one needs a blank between them.
        repeats = (tokens == state.last)[:, None]
        start = torch.where(repeats, state.spelled[:, 1], state.spelled[:, 0])
        spelled = torch.full_like(state.spelled, -torch.inf)
        in_token, in_blank = spelled[:, 0, 1:], spelled[:, 1, 2:]
        in_token.copy_(_accumulate(start, self._label_cumulative(tokens)))  # (N, S)
        blank = self._rows(self._cumulative[:, self.blank_id], len(tokens))
        in_blank.copy_(_accumulate(in_token, blank[:, 1:]))  # a blank needs the token before it
        torch.logaddexp(in_token[:, 1:], in_blank, out=in_token[:, 1:])
        return spelled

    def _prefix_log_probs(self, spelled: Tensor, last: Tensor) -> Tensor:
        """Return the log-probability of each hypothesis longer by each label: (N, V)."""
        # Sums are taken relative to the largest term of a row; what is 700 nats below is lost.
        largest = spelled[:, :1].amax(2, keepdim=True).clamp(min=-1e300)  # -inf - -inf is NaN
        start = (spelled - largest).exp_()
        sums = start.view(self._batch, -1, start.shape[2]) @ self._probs  # (B, 2 K, V)
        sums = sums.view(len(spelled), 2, -1)
        same = sums[:, 1].gather(1, last[:, None])
        return sums[:, 0].scatter(1, last[:, None], same).log_().add_(largest[:, 0])

    def _rows(self, per_utterance: Tensor, num_rows: int) -> Tensor:
        """Repeat (B, ...) for the `num_rows` hypotheses: (N, ...)."""
        if self._batch == 1:
            return per_utterance.expand(num_rows, *per_utterance.shape[1:])
        return per_utterance.repeat_interleave(num_rows // self._batch, dim=0)

    def _ends(self, num_rows: int) -> Tensor:
        """Return each row's number of frames: (N, 1)."""
        return self._rows(self.lengths[:, None], num_rows)

    def _label_cumulative(self, tokens: Tensor) -> Tensor:
        """Return the cumulative log-probabilities (N, S + 1) of each hypothesis' token."""
        index = (tokens.view(self._batch, -1) + self._first_label).flatten()
        return self._cumulative.flatten(0, 1).index_select(0, index)


def _accumulate(start: Tensor, cumulative: Tensor) -> Tensor:
    """Solve r[t] = (r[t - 1] + start[t - 1]) * p[t], r[0] = 0, in logs, from r[1] on: (N, S).

    `cumulative` holds the logs of p[1] * ... * p[t], so the solution is the sum over s <= t
    of start[s - 1] * exp(cumulative[t] - cumulative[s - 1]). All terms are positive: nothing
    cancels, and float64 keeps 1e-10 nats even where the sums come to -1e5.
    """
    terms = start[:, :-1] - cumulative[:, :-1]
    return torch.logcumsumexp(terms, dim=1).add_(cumulative[:, 1:])
