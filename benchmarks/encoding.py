"""Encoding a folder of images into an index: beside the vision backbone alone, again, and in how much memory.

    python benchmarks/encoding.py [--quick] [--images FOLDER] [--model FOLDER] [--workers N] [--threads N]
                                  [--device DEVICE]

The images are 8,000 of open clip art, as the demo installs it, or those of a folder. A process of its
own loads the model, then builds an exact index of them, then builds it again:

- `encode_over_backbone`: images that the build encodes a second (copies are encoded once), from files to a saved
  index, over those of the backbone on tensors that are ready, in batches of the same size, the faster of before and
  after;
- `model_share`: share of the build's time in which the model runs; what is missing to 1 is all that the pipeline adds;
- `second_run_fraction`: time of the second build, which finds nothing to do, over that of the first;
- `peak_mib_1000`, `peak_mib_8000`: peak resident memory of that process while it built, with 1,000 and with all
  images; `worker_peak_mib_*`: of the largest of its decoding processes;
The model runs on as many threads in both, by default on those that the decoding processes leave.

- `pictures`, `skipped`, `encoded`, `pictures_per_second`, `backbone_pictures_per_second`, `workers`, `threads`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.harness import argument_parser, in_fresh_process, peak_mib, report, reset_peak, watched
from modeling_unimur.data.image_bytes import worker_count
from modeling_unimur.data.image_files import walk_images
from modeling_unimur.encoding.build import BuildOptions, build_index
from modeling_unimur.encoding.encoder import Encoder
from modeling_unimur.image_loading import load_image

FEW, ALL = 1000, 8000
QUICK_FEW, QUICK_ALL = 8, 24
BATCH = 32
# Seconds of the backbone alone, at each end of the build.
_BACKBONE_SECONDS, _QUICK_SECONDS = 20.0, 0.5


def image_files(folder: Path | None, count: int) -> list[Path]:
    """Files of so many images, by name.

    Raises:
        ValueError: a folder with too few.
    """
    if folder is None:
        from unimur_mini.openclipart import load_openclipart

        files = [Path(path) for path in load_openclipart(deduplicate=False)["image"]]
    else:
        files = [path for path, is_image in walk_images(folder.absolute()) if is_image]
    if len(files) < count:
        raise ValueError(f"{folder or 'open clip art'} holds {len(files)} images, and {count} are needed.")
    return files[:count]


def backbone_speed(encoder: Encoder, files: list[Path], seconds: float) -> float:
    """Images a second of the backbone on ready tensors."""
    images = []
    for path in files:
        with contextlib.suppress(ValueError):  # the build skips it as well
            images.append(load_image(path))
        if len(images) == BATCH:
            break
    inputs = dict(encoder.processor.process_images([*itertools.islice(itertools.cycle(images), BATCH)]))
    encoder.vectors("image", inputs)
    batches, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        encoder.vectors("image", inputs)
        batches += 1
    return batches * BATCH / (time.perf_counter() - start)


def timed(encoder: Encoder) -> list[float]:
    """A list that takes the seconds of each batch which the model embeds from now on."""
    taken, embed = [], encoder.vectors

    def vectors(*given):
        start = time.perf_counter()
        found = embed(*given)
        taken.append(time.perf_counter() - start)
        return found

    encoder.vectors = vectors
    return taken


def one_corpus(folder: str, args: argparse.Namespace) -> dict[str, float]:
    """Figures of one folder, in this process."""
    torch.set_num_threads(args.threads)
    encoder = Encoder.load(str(args.model), args.device)
    files = [path for path, _ in walk_images(Path(folder))]
    seconds = _QUICK_SECONDS if args.quick else _BACKBONE_SECONDS
    before = backbone_speed(encoder, files, seconds)
    taken = timed(encoder)
    options = BuildOptions(batch_size=BATCH, workers=args.workers, chunk_size=max(1, min(512, len(files) // 4)))
    with tempfile.TemporaryDirectory() as work:
        reset_peak()
        first = build_index(folder, encoder, Path(work, "index"), options)
        peak, in_model = peak_mib(), sum(taken)
        second = build_index(folder, encoder, Path(work, "index"), options)
    if second.encoded or second.added or second.unchanged != len(files):
        raise RuntimeError(f"The second run was to find nothing to do, and did this: {second}")
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "pictures": first.items,
        "skipped": first.skipped,
        "encoded": first.encoded,
        "seconds": first.seconds,
        "model_share": in_model / first.seconds,
        "second_seconds": second.seconds,
        "backbone_pictures_per_second": max(before, backbone_speed(encoder, files, seconds)),
        "peak_mib": peak,
        "worker_peak_mib": children,
        "workers": args.workers,
        "threads": args.threads,
    }


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    counts = {FEW: QUICK_FEW, ALL: QUICK_ALL} if args.quick else {FEW: FEW, ALL: ALL}
    files, found = image_files(args.images, counts[ALL]), {}
    for name, count in counts.items():
        with tempfile.TemporaryDirectory() as folder:
            for number, path in enumerate(files[:count]):
                os.symlink(path, Path(folder, f"{number:05d}{path.suffix.lower()}"))
            found[name] = in_fresh_process(one_corpus, folder, args)
    whole = found[ALL]
    speed = whole["encoded"] / whole["seconds"]
    return {
        "encode_over_backbone": speed / whole["backbone_pictures_per_second"],
        "model_share": whole["model_share"],
        "second_run_fraction": whole["second_seconds"] / whole["seconds"],
        **{f"peak_mib_{name}": figures["peak_mib"] for name, figures in found.items()},
        **{f"worker_peak_mib_{name}": figures["worker_peak_mib"] for name, figures in found.items()},
        "pictures_per_second": speed,
        **{
            name: whole[name]
            for name in ("pictures", "skipped", "encoded", "workers", "threads", "backbone_pictures_per_second")
        },
        "build_seconds": whole["seconds"],
    }


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--images", type=Path, help="folder of images (default: open clip art)")
    parser.add_argument("--workers", type=int, help="decoding processes (default: the spare CPUs)")
    parser.add_argument("--threads", type=int, help="of the model (default: the CPUs that the workers leave)")
    parser.add_argument("--device", help="of the model (default: an accelerator if there is one)")
    args = parser.parse_args()
    if args.workers is None:
        args.workers = worker_count(None, ALL)
    args.threads = args.threads or max(1, (os.cpu_count() or 1) - args.workers)
    notes = [
        f"{args.model.name}, batches of {BATCH}; {args.threads} threads for the model, "
        f"{args.workers} decoding processes",
        "images a second; MiB of resident memory",
    ]
    with watched():
        figures = run(args)
    report("encoding", args, figures, notes)


if __name__ == "__main__":
    main()
