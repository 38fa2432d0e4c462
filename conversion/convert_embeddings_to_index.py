"""Converts FROMAGe's `cc3m_embeddings*.pkl` and GILL's `cc3m_embeddings*.npy` to an index that UniMuR searches.

    python conversion/convert_embeddings_to_index.py fromage_model/cc3m_embeddings*.pkl cc3m-index
    python conversion/convert_embeddings_to_index.py vectors.npy my-index --paths paths.txt --model fromage-heads

A file holds `{"paths": [...], "embeddings": ...}`, an array `(images, width)` or a list of vectors, of numpy or of
torch; GILL's is a pickle in spite of its name. Nothing in a file is run. A `.npy` of numbers alone takes the paths
from a text file, one per line. No image is fetched: a path or URL is the id and the payload of its vector.

Load the result with `retriever.load_index(FOLDER)`, or `RetrievalIndex.load(FOLDER)`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conversion.restricted_pickle import read_arrays
from conversion.state_dicts import new_target
from modeling_unimur import RetrievalIndex
from modeling_unimur.data.text_lines import read_lines

logger = logging.getLogger(__name__)

_ROWS = 65536  # converted at a time


def read_embeddings(
    path: str | os.PathLike, paths_file: str | os.PathLike | None = None
) -> tuple[list[str], np.ndarray]:
    """Paths of images and their vectors `(images, width)`, from one file of either source; for a file that holds
    vectors only, the paths are the lines of `paths_file`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file holds something else, or paths and vectors do not agree in number.
    """
    content = read_arrays(path)
    if isinstance(content, dict):
        if paths_file is not None:
            raise ValueError(f"{path} has paths of its own, and --paths gives others.")
        if not {"paths", "embeddings"} <= content.keys():
            raise ValueError(f"{path} holds {sorted(map(str, content))[:5]}, not paths and embeddings.")
        names, vectors = content["paths"], content["embeddings"]
    elif paths_file is None:
        raise ValueError(f"{path} holds vectors without paths: pass --paths with one path a line.")
    else:
        names, vectors = list(read_lines(paths_file)), content
    names = names.tolist() if isinstance(names, np.ndarray) else list(names)
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(f"{path}: the path {wrong!r} is {type(wrong).__name__}, not a text.")
    if isinstance(vectors, list):
        try:
            vectors = np.stack(vectors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}.") from error
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind != "f" or vectors.ndim != 2:
        raise ValueError(f"{path}: the embeddings are no array (images, width) of real numbers.")
    if len(names) != len(vectors):
        raise ValueError(f"{path}: {len(names)} paths and {len(vectors)} embeddings.")
    return names, vectors


def convert(
    files: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    paths_file: str | os.PathLike | None = None,
    model: str | os.PathLike | None = None,
) -> dict:
    """Writes one index of all files, joined in their order. Zero or non-finite vectors and repeated paths are skipped
    and counted.

    Args:
        output_dir: folder to make.
        paths_file: as in `read_embeddings`, for a single file.
        model: folder or Hub id of the release that is to search the index; its width must be that of the vectors.

    Returns:
        `{"images": kept, "width", "skipped": [{"item", "reason"}], "again": paths that were there before}`.

    Raises:
        FileExistsError: the folder exists.
        FileNotFoundError, ValueError: a file cannot be read, the files or the model differ in width, or nothing is
            left.
    """
    target = new_target(output_dir)
    if not files or (paths_file is not None and len(files) != 1):
        raise ValueError(f"{len(files)} files: pass at least one, and one alone with --paths.")
    width = None if model is None else AutoConfig.from_pretrained(model).embedding_width
    of = None if model is None else f"the model {model}"
    index, skipped, again, seen = RetrievalIndex(), [], 0, set()
    for path in files:
        names, vectors = read_embeddings(path, paths_file)
        width, of = (vectors.shape[1], str(path)) if width is None else (width, of)
        if vectors.shape[1] != width:
            raise ValueError(f"{path} holds vectors of {vectors.shape[1]} numbers; {of} has {width}.")
        for start in tqdm(range(0, len(names), _ROWS), desc=Path(path).name, disable=len(names) <= _ROWS):
            rows = np.asarray(vectors[start : start + _ROWS], dtype=np.float32)
            good = []
            for number, norm in enumerate(np.linalg.norm(rows, axis=1).tolist()):
                name = names[start + number]
                if not (np.isfinite(norm) and norm > 0):
                    skipped.append({"item": name, "reason": f"a vector of length {norm}"})
                elif name in seen:
                    again += 1
                else:
                    seen.add(name)
                    good.append(number)
            if good:
                ids = [names[start + number] for number in good]
                unit = rows[good] / np.linalg.norm(rows[good], axis=1, keepdims=True)
                index.add("image", ids, unit, [{"image": item} for item in ids])
    if not seen:
        raise ValueError(f"No usable vector in {', '.join(map(str, files))}.")
    index.save(target)
    logger.info("%d images of width %d in %s", len(seen), width, target)
    if skipped or again:
        logger.info("Left out: %d vectors without direction, %d paths that came before", len(skipped), again)
    return {"images": len(seen), "width": width, "skipped": skipped, "again": again}


def main() -> None:
    """Command line of the conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="the sources' files, joined in this order")
    parser.add_argument("output", help="folder to make")
    parser.add_argument("--paths", help="one path a line, for a file that holds vectors only")
    parser.add_argument("--model", help="release that is to search the index; its width is checked")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    convert(args.files, args.output, paths_file=args.paths, model=args.model)
    print(args.output)


if __name__ == "__main__":
    main()
