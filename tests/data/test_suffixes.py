import pytest

from vqtrt.data import foreign
from vqtrt.data.audio.folder import recording_kind
from vqtrt.data.images.folder import image_kind
from vqtrt.data.selection import suffix_of
from vqtrt.data.suffixes import ARCHIVES, CONVERTIBLE_AUDIO, NO_IMAGES, READ_AUDIO


def test_each_has_one_meaning() -> None:
    assert not set(READ_AUDIO) & CONVERTIBLE_AUDIO
    assert not ARCHIVES & {*READ_AUDIO, *CONVERTIBLE_AUDIO}
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in NO_IMAGES)


def test_what_is_named_as_foreign_is_no_image_of_a_folder() -> None:
    assert {suffix_of(f"x{suffix}") for suffix in foreign._SUFFIXES} <= NO_IMAGES


@pytest.mark.parametrize("name", ["a.aifc", "a.WAVE", "a.nist", "a.ape", "a.m4b", "a.tfrecords"])
def test_a_recording_or_table_among_images_is_passed_over(name: str) -> None:
    assert image_kind(name) == suffix_of(name)


@pytest.mark.parametrize("name", ["a.wav", "b.MP3", "c.sph"])
def test_recordings(name: str) -> None:
    assert recording_kind(name) == ""
    assert image_kind(name) == suffix_of(name)
