"""Synthetic speech: espeak-ng through PyPI's espeakng-loader, a shared library called by ctypes.

    waves, sample_rate = say_all([("cat", "en-us+f2"), ("dog", "en-us+f2")])

What it makes is free of its program's licence (GPL-3). It is a synthetic voice and is called so.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import TracebackType

import numpy as np

from mmfm_prep.errors import PrepError
from mmfm_prep.sound import Wave

# espeak-ng/speak_lib.h
_RETRIEVAL = 1
_DONT_EXIT = 0x8000
_UTF8 = 1
_BY_CHARACTER = 1
_RATE, _PITCH = 1, 3
_IPA = 2
_LONGEST_PATH = 120
"""espeak-ng keeps its data path in 160 characters and appends to it."""

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def say_all(lines: Sequence[tuple[str, str]]) -> tuple[list[Wave], int]:
    """Every (text, voice) of `lines` spoken, float32, and the sample rate.

    In a process of its own: espeak-ng carries the state of its flutter from one word to the next,
    so only a fresh one gives the same waves for the same lines.
    """
    with _fresh_process() as pool:
        spoken = list(pool.map(_say, lines, chunksize=8))
        return spoken, pool.submit(_sample_rate).result()


def pronounce_all(texts: Sequence[str], voice: str) -> list[str]:
    """How `voice` pronounces each of `texts`, in IPA: equal for those that sound the same."""
    with _fresh_process() as pool:
        return list(pool.map(partial(_pronounce, voice=voice), texts, chunksize=64))


@contextmanager
def _fresh_process() -> Iterator[ProcessPoolExecutor]:
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            yield pool
    except BrokenProcessPool:
        raise PrepError("espeak-ng crashed: reinstall espeakng-loader") from None


@cache
def _speaker() -> Speaker:
    """The one of this process."""
    return Speaker()


def _say(line: tuple[str, str]) -> Wave:
    return _speaker().say(*line)


def _sample_rate() -> int:
    return _speaker().sample_rate


def _pronounce(text: str, voice: str) -> str:
    return _speaker().phonemes(text, voice)


class Speaker:
    """espeak-ng, started once in a process; its data folder may lie behind a short link."""

    def __init__(self) -> None:
        try:
            import espeakng_loader  # type: ignore[import-untyped, unused-ignore]
        except ModuleNotFoundError:
            raise PrepError(
                "the synthetic voices need espeakng-loader: pip install 'mmfm[quickstart]'"
            ) from None
        self._chunks: list[bytes] = []
        self._callback = _Callback(self._take)  # kept: the library holds only its address
        self._link: tempfile.TemporaryDirectory[str] | None = None
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = library.espeak_Initialize(
            _RETRIEVAL, 0, os.fsencode(self._short(espeakng_loader.get_data_path())), _DONT_EXIT
        )
        if rate <= 0:
            self.close()
            raise PrepError(f"espeak-ng does not start (code {rate}): reinstall espeakng-loader")
        library.espeak_SetSynthCallback(self._callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # its own seed is the time
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library = library
        self.sample_rate = int(rate)

    def __enter__(self) -> Speaker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the link to the data folder, where there was one."""
        if self._link is not None:
            self._link.cleanup()
            self._link = None

    def say(self, text: str, voice: str, *, rate: int = 160, pitch: int = 50) -> Wave:
        """`text` in `voice` (``en-us+f2``), float32 at `sample_rate`.

        `rate`: words a minute; `pitch`: 0-100. PrepError where espeak-ng has no such voice.
        """
        self._voice(voice)
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks = []
        data = text.encode() + b"\0"
        code = self._library.espeak_Synth(data, len(data), 0, _BY_CHARACTER, 0, _UTF8, None, None)
        if code != 0:
            raise PrepError(f"espeak-ng could not say {text!r} in voice {voice} (code {code})")
        self._library.espeak_Synchronize()
        wave = np.frombuffer(b"".join(self._chunks), dtype=np.int16)
        return wave.astype(np.float32) / np.float32(32768)

    def phonemes(self, text: str, voice: str) -> str:
        """How `voice` pronounces `text`, in IPA: equal for words that sound the same."""
        self._voice(voice)
        pointer = ctypes.c_char_p(text.encode())
        spoken = self._library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, _IPA)
        return (spoken or b"").decode().strip()

    def _voice(self, voice: str) -> None:
        _, _, variant = voice.partition("+")
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0 or (
            # An unknown variant is passed over in silence by the library.
            variant and not (self._data / "voices" / "!v" / variant).is_file()
        ):
            raise PrepError(f"espeak-ng has no voice {voice!r}")

    def _take(self, wave: ctypes._Pointer[ctypes.c_short], samples: int, events: int) -> int:
        if wave and samples > 0:
            self._chunks.append(ctypes.string_at(wave, samples * ctypes.sizeof(ctypes.c_short)))
        return 0

    def _short(self, data: str) -> str:
        self._data = Path(data)
        if len(os.fsencode(data)) <= _LONGEST_PATH:
            return data
        self._link = tempfile.TemporaryDirectory(prefix="espeak-")
        link = Path(self._link.name) / "espeak-ng-data"
        link.symlink_to(data, target_is_directory=True)
        return str(link)
