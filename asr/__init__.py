"""Open-source speech recognition with recurrent encoders and an attention decoder.

Axis letters used in shape comments everywhere: B batch, N samples, T frames, S encoder
frames, F mel bands, U tokens, K beam, V vocabulary, D encoder width, H decoder width.

Nothing heavy is imported here, so that ``import asr`` is instant.
"""

__version__ = "0.1.0"
