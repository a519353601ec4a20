import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vqtrt.config.audio import SpeechPriorConfig
from vqtrt.config.settings import parse_settings
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipHeader, read_clip_codes
from vqtrt.formats.codes_writer import ClipWriter
from vqtrt.priors.runs import SpeechPriorRun, trained_speech_priors
from vqtrt.training.audio_prior import SpeechPriorTask, fit_speech_config, train_speech_prior

K, STRIDE = 12, 4
SHA = "f" * 64
CODEBOOKS = torch.randn(1, K, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def make_codes(tmp_path):
    def make(count=60, speakers=("ann", "bob"), unknown=(), lengths=None, name="codes.npy"):
        """Clips in which a code is its speaker's step from the one before, now and then any."""
        rng = np.random.default_rng(0)
        header = ClipHeader(
            codebook_size=K,
            sample_rate=8000,
            stride=STRIDE,
            classes=speakers,
            root="speech",
            listing_sha256="0" * 64,
            weights_sha256=SHA,
            model={"path": "run", "engine": "torch"},
            preprocessing={},
            vqtrt_version="0",
        )
        with ClipWriter(tmp_path / name, header=header, resume=False) as writer:
            for number in range(count):
                length = int(rng.integers(3, 40)) if lengths is None else lengths[number]
                label = number % len(speakers) if speakers else -1
                steps = np.where(
                    rng.random(length) < 0.9, 1 + 4 * label, rng.integers(0, K, length)
                )
                clip = np.cumsum(steps) % K
                shown = -1 if number in unknown else label
                writer.write([f"{number}.wav"], [shown], [clip], [length * STRIDE - 1])
            writer.finish()
        return read_clip_codes(tmp_path / name)

    return make


def settings(**more):
    made = {
        "prior": {"layers": 3, "cycles": 1, "channels": 12, "head": 16},
        "data": {"path": "codes.npy", "crop": 8, "holdout": 10},
        "train": {
            "steps": 40,
            "batch_size": 16,
            "learning_rate": 0.01,
            "log_every": 10,
            "evaluate_every": 20,
            "checkpoint_every": 20,
        },
    }
    for key, values in more.items():
        made[key] |= values
    return parse_settings(SpeechPriorConfig, made, "tiny")


def fitted(codes, **more):
    return fit_speech_config(settings(**more), codes, SHA)


def lines(path):
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "crops_per_second"} for line in found]


def test_what_it_leaves(tmp_path, make_codes, make_log):
    codes = make_codes()
    config, path = fitted(codes), tmp_path / "priors" / "wavenet"
    run = train_speech_prior(config, path, codes, CODEBOOKS, make_log())
    reports = [line for line in lines(path) if "loss" in line]
    assert [line["step"] for line in reports] == [10, 20, 30, 40]
    assert reports[0]["bits_per_code"] == pytest.approx(reports[0]["loss"] / math.log(2))
    first, last = (line["evaluation"] for line in lines(path) if "evaluation" in line)
    assert set(first) == {"bits_per_code", "unigram_bits"}
    assert first["unigram_bits"] == last["unigram_bits"]
    assert last["bits_per_code"] < first["bits_per_code"]
    # What the steps tell is 2.4 bits of 3.6.
    assert last["bits_per_code"] < last["unigram_bits"] - 1 < math.log2(K) + 0.5 - 1
    pictures = sorted((path / "samples").iterdir())
    assert [picture.name for picture in pictures] == ["step-00000020.png", "step-00000040.png"]
    opened = SpeechPriorRun.open(path)
    assert opened.config == run.config == config
    assert opened.config.prior.num_classes == 2
    facts = trained_speech_priors(tmp_path)["wavenet"].info()
    assert (facts.kind, facts.codebook_size, facts.height, facts.width) == ("wavenet", K, 1, 8)
    assert (facts.receptive_field, facts.classes, facts.tokenizer_sha256) == (
        8,
        ("ann", "bob"),
        SHA,
    )
    assert facts.weights_sha256 != SHA
    prior = opened.load()
    assert not prior.training
    assert all(not p.requires_grad for p in prior.parameters())


def test_the_picture_has_held_out_clips_above_drawn_ones(tmp_path, make_codes):
    codes = make_codes(30, lengths=[5] * 15 + [9] * 15)
    task = SpeechPriorTask(fitted(codes), codes, CODEBOOKS)
    task.module.eval()
    with torch.no_grad():
        task.evaluate(torch.device("cpu"), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        pixels = np.asarray(image)
    # Three clips of at most 8 codes of 4 pixels, and three drawn.
    assert pixels.shape == (6 * 14 + 12 + 2, 8 * 4 + 4, 3)
    assert (pixels[3 * 14 + 4 : 3 * 14 + 12] == 255).all()


def test_the_loss_is_of_every_code_in_its_place(make_codes):
    """However clips are cut and batched: nats of whole clips, one by one, without padding."""
    codes = make_codes()
    config = fitted(codes, data={"crop": 5})
    task = SpeechPriorTask(config, codes, CODEBOOKS)
    prior = task.prior.double().eval()
    whole = []
    for clip in task.held_out:
        given = torch.from_numpy(codes.clip(clip).astype(np.int64))[None]
        logits = prior(given, torch.tensor([codes.labels[clip]]))
        whole.append(torch.nn.functional.cross_entropy(logits[0], given[0], reduction="none"))
    expected = torch.cat(whole).mean() / math.log(2)
    with torch.no_grad():
        parts = task._take(task.held_out_crops)
        found = task.losses(prior, parts, torch.device("cpu"))
    assert len(task.held_out_crops) > len(task.held_out)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-10)


def test_an_epoch_has_every_training_code_once(make_codes):
    codes = make_codes(40)
    task = SpeechPriorTask(fitted(codes, train={"batch_size": 1}), codes, CODEBOOKS)
    assert len(task.held_out) == 4
    count = 0
    for batch in task.batches(range(len(task.crops)), 0, 1):
        assert batch.speakers.shape == (1,)
        clips = [i for i in range(40) if codes.labels[i] == batch.speakers[0]]
        own = batch.codes[batch.loss_mask].tolist()
        assert any(own == codes.clip(i)[s : s + 8].tolist() for i in clips for s in range(0, 40, 8))
        count += len(own)
    assert count == sum(len(codes.clip(i)) for i in range(40) if i not in task.held_out)


def test_clips_of_the_speaker_follow_where_one_ends(make_codes):
    codes = make_codes(40)
    config = fitted(codes, data={"join": 3, "crop": 30})
    task = SpeechPriorTask(config, codes, CODEBOOKS)
    clips = [codes.clip(i).tolist() for i in range(40)]
    train = [i for i in range(40) if i not in task.held_out]
    batch = next(task.batches(range(5, 6), 0, 1))
    again = next(task.batches(range(5, 6), 0, 1))
    np.testing.assert_array_equal(batch.codes, again.codes)
    followed = 0
    for row, loss_mask, speaker in zip(batch.codes, batch.loss_mask, batch.speakers, strict=True):
        own = row[loss_mask].tolist()
        assert len(own) <= 30
        mine = [clips[i] for i in train if codes.labels[i] == speaker]
        parts = [c[start : start + 30] for c in mine for start in range(0, len(c), 30)]
        first = max((part for part in parts if own[: len(part)] == part), key=len)
        rest = own[len(first) :]
        for _ in range(2):
            found = [c for c in mine if rest and c[: len(rest)] == rest[: len(c)]]
            followed += bool(found)
            rest = rest[len(max(found, key=len)) :] if found else rest
        assert rest == []
    assert followed > len(batch.codes)
    other = next(task.batches(range(6, 7), 0, 1))
    assert other.codes.shape != batch.codes.shape or (other.codes != batch.codes).any()


def test_a_clip_that_goes_on_is_followed_by_none(make_codes):
    codes = make_codes(30, lengths=[20] * 30)
    task = SpeechPriorTask(fitted(codes, data={"join": 4}), codes, CODEBOOKS)
    lengths = {(crop.start, len(task._tail(crop, np.random.default_rng(0)))) for crop in task.crops}
    # Crops of 8 codes: two that go on, and one of 4 with as many behind it.
    assert lengths == {(0, 0), (8, 0), (16, 4)}


def test_processes_share_a_batch(make_codes):
    codes = make_codes()
    task = SpeechPriorTask(fitted(codes), codes, CODEBOOKS)
    (whole,), *parts = (list(task.batches(range(3, 4), r, w)) for r, w in ((0, 1), (0, 2), (1, 2)))
    for rank, (part,) in enumerate(parts):
        np.testing.assert_array_equal(part.speakers, whole.speakers[rank::2])
        assert part.loss_mask.sum() == whole.loss_mask[rank::2].sum()


def test_unigram_bits(make_codes):
    codes = make_codes(20)
    task = SpeechPriorTask(fitted(codes), codes, CODEBOOKS)
    train = np.concatenate([codes.clip(i) for i in range(20) if i not in task.held_out])
    held_out = np.concatenate([codes.clip(i) for i in task.held_out])
    share = (np.bincount(train, minlength=K) + 1) / (len(train) + K)
    assert task.unigram_bits == pytest.approx(-np.log2(share[held_out]).mean())


def test_a_resumed_prior_is_the_unbroken_one(tmp_path, make_codes, make_log):
    codes = make_codes()
    more = {"prior": {"dropout": 0.2}, "train": {"schedule": "cosine", "warmup_steps": 4}}
    config = fitted(codes, **more)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train_speech_prior(config, unbroken, codes, CODEBOOKS, make_log())
    with pytest.raises(KeyboardInterrupt):
        train_speech_prior(config, broken, codes, CODEBOOKS, make_log(stop_at=27))
    train_speech_prior(config, broken, codes, CODEBOOKS, make_log(), resume=True)
    one, other = (load_file(path / "model.safetensors") for path in (unbroken, broken))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert lines(unbroken) == lines(broken)


def test_without_speakers(tmp_path, make_codes, make_log):
    for number, codes in enumerate([make_codes(speakers=()), make_codes(unknown=(3,))]):
        config = fitted(codes, data={"conditional": False}, train={"steps": 2})
        assert config.prior.num_classes == 0
        run = train_speech_prior(config, tmp_path / str(number), codes, CODEBOOKS, make_log())
        assert run.info().classes == ()


def test_codes_that_cannot_be_trained_on(make_codes):
    with pytest.raises(VqtrtError, match=r"no speaker.*conditional=false"):
        fitted(make_codes(unknown=(3,)))
    codes = make_codes(1)
    with pytest.raises(VqtrtError, match="at least 2 rows or clips"):
        SpeechPriorTask(fitted(codes), codes, CODEBOOKS)
    with pytest.raises(VqtrtError, match="another tokenizer"):
        fit_speech_config(settings(), codes, "e" * 64)
    codes.path.with_suffix(".json").unlink()
    with pytest.raises(VqtrtError, match=r"no \.json"):
        fitted(read_clip_codes(codes.path))
    np.save(codes.path, np.full_like(np.load(codes.path), K))
    codes = make_codes(2, name="other.npy")
    np.save(codes.path, np.full_like(np.load(codes.path), K))
    with pytest.raises(VqtrtError, match=f"holds {K} at 0"):
        fitted(read_clip_codes(codes.path))
