"""tGAN: labels out of unlabelled frames. `emcopilot adapt`, `python -m models.adapt job.toml`.

The recipe, in order: rough masks -> pix2pix -> random masks -> 1st generation -> CycleGAN -> 2nd
generation -> NPsSegNet -> verdict. Each step leaves its result in the job's folder in one piece: a
job that is killed goes on at the step, and within a GAN or a training where it was. The folder
becomes a model only at the end: nothing half-written is a candidate.

Source: Yuan et al., npj Comput. Mater. 2025, doi 10.1038/s41524-025-01800-5.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emcopilot.durable import sync
from emcopilot.simulate import LAYERS, random_scene, render_micrograph
from models import checkpoint
from models.adapt_evaluate import Outcome, evaluate
from models.adapt_report import FIGURES_FILE, PICTURE_FILE, write_report
from models.adapt_settings import AdaptSettings
from models.augmentation import Source
from models.checkpoint import ModelCard
from models.cyclegan import train_cyclegan
from models.datasets import LabelledFrame, label
from models.domain import Domain, network_cut, open_domain
from models.domain_frames import frame_files
from models.gan_judges import judge_of_painting, judge_of_translation
from models.gan_networks import Generator
from models.image_metrics import Features, encoder_features, inception_features
from models.job_folder import content_of, kept, opened
from models.mask_statistics import MaskStatistics
from models.pix2pix import train_pix2pix
from models.replay import REPLAY_FILE, keep_replay
from models.samples import SAMPLES, show_sample
from models.seen import write_candidate_seen
from models.synthesise import first_generation, second_generation
from models.train_segmenter import train
from models.train_settings import Recipe
from models.training import named_device
from models.watch import Cancelled, LogWatch, Watch

HELD_OUT_EVERY = 10
"""Of the synthetic set, one in so many is not trained on, crowded ones too: for the curves and the
candidate's own score."""
REHEARSED = 192
"""Simulated frames against forgetting: some twenty seconds to draw."""
LETTERED = 0.2
"""Chance of burning letters and a scale bar into a tile of them: rough masks take a film's own for
particles."""


def adapt(job: AdaptSettings, watch: Watch | None = None) -> ModelCard:
    """Learn a domain from unlabelled frames and leave a candidate in the job's folder.

    Parameters
    ----------
    job : AdaptSettings
    watch : Watch, optional
        Who is told of progress and may cancel; by default the log.

    Returns
    -------
    ModelCard
        The candidate's; a job that is done already returns it at once.

    Raises
    ------
    AdaptationError
        If the frames do not suffice, or a step failed; the incumbent is untouched.
    Cancelled
        If the watch said so; the job goes on when started again.
    ConfigError
        If the folder holds another job.
    """
    watch = watch or LogWatch()
    files = frame_files(job.frames, job.most_frames)
    with opened(job, files) as folder:
        if (folder / checkpoint.CARD_FILE).exists():
            return checkpoint.load(folder)[1]
        trained, outcome = one_round(job, files, job.model, folder / "round-1", watch)
        for number in range(2, job.rounds + 1):
            directory = folder / f"round-{number}"
            trained, outcome = one_round(job, files, str(trained), directory, watch)
        write_candidate_seen(folder, trained, job.model, files)
        card = _become_candidate(folder, trained, outcome)
        watch.report("evaluate", 1, 1)
        return card


def one_round(
    job: AdaptSettings, files: list[Path], model: str, directory: Path, watch: Watch
) -> tuple[Path, Outcome]:
    """Go once through the recipe, from `model` on; returns the new model and what was reached."""
    trained = directory / "train"
    samples = job.out / SAMPLES
    number = int(directory.name.rpartition("-")[2])
    _begin(watch, "rough_masks", round=number)
    domain = open_domain(job, files, model, directory)
    show_sample(samples / f"{number}-1-rough-masks.png", domain.frames)
    features = features_for(job)
    network, card = checkpoint.load(model)
    statistics = MaskStatistics.of(frame.mask for frame in domain.frames)
    crowded = round(min(job.crowded, domain.missed) * job.synthetic)
    _begin(watch, "pix2pix", directory / "pix2pix", job.pix2pix.steps)
    painter = train_pix2pix(
        job.pix2pix,
        domain.painted,
        directory / "pix2pix",
        watch,
        judge_of_painting(job, domain, statistics, features),
    )
    first = kept(
        directory / "first.npz",
        lambda: first_generation(
            painter,
            statistics,
            count=job.synthetic,
            side_px=job.side_px,
            seed=job.seed,
            crowded=crowded,
        ),
    )
    show_sample(samples / f"{number}-2-first-generation.png", first)
    _begin(watch, "cyclegan", directory / "cyclegan", job.cyclegan.steps)
    translator = train_cyclegan(
        job.cyclegan,
        # The crowded ones come last; real frames have none for the discriminators to compare.
        first[: len(first) - crowded],
        domain.real,
        directory / "cyclegan",
        watch,
        # Only one that knows these particles can hold them where they are.
        keeper=network if domain.how == "incumbent" else None,
        judge=judge_of_translation(job, domain, first, features),
    )
    second = kept(
        directory / "second.npz",
        lambda: _second(job, translator, first, domain, watch),
    )
    show_sample(samples / f"{number}-3-second-generation.png", second)
    learnt, unseen = parted(second)
    _begin(watch, "train", trained, job.train.steps)
    train(
        job.train.model_copy(
            update={"start": model, "architecture": card.architecture}
        ),
        sources(job, learnt, domain.shown),
        trained,
        recipe=_recipe(job, domain),
        held_out=unseen,
        watch=watch,
    )
    _begin(watch, "evaluate")
    outcome = evaluate(
        domain,
        features,
        first=first,
        second=second,
        unseen=unseen,
        incumbent=job.incumbent or job.model,
        candidate=trained,
        device=job.device,
    )
    write_report(directory, domain, first, second, outcome, device=job.device)
    keep_replay(
        directory / REPLAY_FILE,
        job.incumbent or job.model,
        job.domain or f"frames {content_of(files)[:8]}",
        domain.named_held_back,
        network_cut(trained, job.device),
        key=job.domain_key,
    )
    return trained, outcome


def parted(
    synthetic: Sequence[LabelledFrame],
) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Part a synthetic set into what NPsSegNet learns from and what it never sees."""
    every = min(HELD_OUT_EVERY, len(synthetic) // 2)
    learnt = [frame for number, frame in enumerate(synthetic) if number % every]
    return learnt, list(synthetic[::every])


def _begin(
    watch: Watch,
    stage: str,
    directory: Path | None = None,
    steps: int = 1,
    **figures: float,
) -> None:
    """Say that a stage begins, unless the job is to stop; one that goes on says so itself."""
    if watch.is_cancelled():
        raise Cancelled(
            f"the job was cancelled before {stage}; start it again to go on from there"
        )
    if directory is None or not (directory / checkpoint.STATE_FILE).exists():
        watch.report(stage, 0, steps, **figures)


def _second(
    job: AdaptSettings,
    translator: Generator,
    first: Sequence[LabelledFrame],
    domain: Domain,
    watch: Watch,
) -> list[LabelledFrame]:
    _begin(watch, "synthesise")
    return second_generation(translator, first, domain.cut, job.most_lost)


def features_for(job: AdaptSettings) -> Features:
    """Return the network in whose features looks are compared: Inception, or the incumbent."""
    chosen = (
        inception_features(job.inception)
        if job.inception
        else encoder_features(job.model)
    )
    chosen.network.to(named_device(job.device))
    return chosen


def sources(
    job: AdaptSettings,
    made: Sequence[LabelledFrame],
    real: Sequence[LabelledFrame] = (),
    *,
    has_true_edges: bool = False,
) -> list[Source]:
    """Return what NPsSegNet learns from: a domain's labelled frames, and some of all it knew.

    Parameters
    ----------
    job : AdaptSettings
    made : sequence of LabelledFrame
        The synthetic set, or whatever else stands in its place.
    real : sequence of LabelledFrame, optional
        Real frames with their rough masks.
    has_true_edges : bool
        Whether their masks are drawn exactly.

    Notes
    -----
    Edges of the synthetic set are as rough as those that pix2pix learnt from. Simulated ones are
    exact, and where there are any they set the model's.
    """
    share = job.real if real else 0.0
    parts = ((made, 1 - share), (real, share))
    ours = [
        Source(
            frames,
            has_true_edges=has_true_edges or job.rehearsal == 0,
            share=(1 - job.rehearsal) * part,
            scale=(0.35, 1.4),  # the live path also looks at half size
            invert=0.0,  # one domain has one polarity
        )
        for frames, part in parts
        if part and frames
    ]
    if not job.rehearsal:
        return ours
    known = [_simulated(job.seed, number) for number in range(REHEARSED)]
    rehearsed = Source(
        known,
        share=job.rehearsal,
        scale=(0.5, 2.0),
        annotate=LETTERED,
        invert=0.0,
    )
    return [*ours, rehearsed]


def _simulated(seed: int, number: int) -> LabelledFrame:
    rng = np.random.default_rng((seed, number))
    scene = random_scene(rng, shape=(384, 384), layers=LAYERS)
    frame = render_micrograph(scene, rng)
    return label(f"rehearsal-{number}", frame.pixels, frame.labels > 0)


def _recipe(job: AdaptSettings, domain: Domain) -> Recipe:
    return Recipe(
        name="npssegnet-adapted",
        licence="the licence of the frames it was adapted to",
        data={
            "frames": [frame.name for frame in domain.frames],
            "left_out": domain.left_out,
            "rough_masks": domain.why,
            "preset": job.preset,
            "synthetic": job.synthetic,
            "rehearsal": job.rehearsal,
            "real": job.real,
        },
    )


def _become_candidate(folder: Path, trained: Path, outcome: Outcome) -> ModelCard:
    """Let the job's folder be the model; the card, by which it is one, comes last."""
    card = checkpoint.load(trained)[1]
    data = {**card.data, "verdict": outcome.as_json()}
    weights = trained / checkpoint.WEIGHTS_FILE
    figures = (
        trained.parent / name for name in (FIGURES_FILE, PICTURE_FILE, REPLAY_FILE)
    )
    for file in (weights, *figures):
        sync(Path(shutil.copy(file, folder)))
    card = card.model_copy(update={"data": data})
    checkpoint.write_card(folder, card)
    return card


if __name__ == "__main__":
    from models.adapt_command import run

    sys.exit(run(sys.argv[1:]))
