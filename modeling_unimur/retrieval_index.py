"""An exact index of texts and pictures that lives in memory and in one folder."""

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

KINDS = ("text", "image")
_FORMAT = 1


class RetrievalIndex:
    """Unit vectors of candidates with their ids and payloads, searched exactly by cosine.

    An id is unique within its kind; adding it again replaces what it stood for.

    Args:
        probe (`torch.Tensor` of shape `(width,)`, *optional*): embedding of a fixed sentence in this space. It is
            saved with the index, so that another model's vectors are never mixed with these.
    """

    def __init__(self, probe: "torch.Tensor | None" = None):
        self.probe = probe
        self._ids: dict = {kind: [] for kind in KINDS}  # by row
        self._payloads: dict = {kind: [] for kind in KINDS}  # by row
        self._places: dict = {kind: {} for kind in KINDS}  # id -> row
        self._rows: dict = {kind: [] for kind in KINDS}  # tensors not yet joined

    def __len__(self) -> int:
        return sum(map(len, self._ids.values()))

    def count(self, kind: str) -> int:
        """Number of candidates of a kind, `"text"` or `"image"`."""
        return len(self._ids[kind])

    def __contains__(self, key: "tuple[str, str]") -> bool:
        kind, item_id = key
        return item_id in self._places[kind]

    def _matrix(self, kind: str) -> torch.Tensor:
        if len(self._rows[kind]) > 1:
            self._rows[kind] = [torch.cat(self._rows[kind])]
        return self._rows[kind][0] if self._rows[kind] else torch.empty(0, 0)

    def add(self, kind: str, ids: "list[str]", embeddings: torch.Tensor, payloads: list) -> None:
        """Adds candidates.

        Args:
            kind (`str`): `"text"` or `"image"`.
            ids (`list[str]`): one a candidate.
            embeddings (`torch.Tensor` of shape `(candidates, width)`): normalised here.
            payloads (`list`): what comes back with a hit: the text, or the picture's path.

        Raises:
            ValueError: when lengths or widths do not agree.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is one of {KINDS}, not {kind!r}.")
        if not len(ids) == len(payloads) == len(embeddings):
            raise ValueError(
                f"{len(ids)} ids, {len(payloads)} payloads and {len(embeddings)} embeddings do not agree."
            )
        if not len(ids):
            return
        embeddings = torch.nn.functional.normalize(embeddings.detach().float().cpu(), dim=-1)
        width = next((rows[0].shape[1] for rows in self._rows.values() if rows), embeddings.shape[1])
        if embeddings.shape[1] != width:
            raise ValueError(f"The index holds vectors of {width} numbers; these have {embeddings.shape[1]}.")
        last = {item_id: row for row, item_id in enumerate(ids)}  # of an id given twice the last one counts
        fresh = []
        for item_id, row in last.items():
            place = self._places[kind].setdefault(item_id, len(self._ids[kind]))
            if place == len(self._ids[kind]):
                self._ids[kind].append(item_id)
                self._payloads[kind].append(payloads[row])
                fresh.append(row)
            else:
                self._payloads[kind][place] = payloads[row]
                self._matrix(kind)[place] = embeddings[row]
        if fresh:
            self._rows[kind].append(embeddings[fresh])

    def search(self, queries: torch.Tensor, top_k: int = 5, kind: "str | None" = None) -> "list[list[dict]]":
        """The best candidates of each query.

        Args:
            queries (`torch.Tensor` of shape `(queries, width)`): unit vectors.
            top_k (`int`): hits a query, fewer where the index holds fewer.
            kind (`str`, *optional*): `"text"` or `"image"`; both in one ranking without it.

        Returns:
            `list[list[dict]]`: hits `{"id", "score", "kind", <kind>: payload}`, best first.
        """
        kinds = [k for k in (KINDS if kind is None else (kind,)) if self._ids[k]]
        if not kinds:
            return [[] for _ in queries]
        queries = queries.detach().float().cpu()
        scores = torch.cat([queries @ self._matrix(k).T for k in kinds], dim=1)
        values, places = scores.topk(min(top_k, scores.shape[1]), dim=1)
        first = len(self._ids[kinds[0]])

        def hit(score: float, place: int) -> dict:
            k, row = (kinds[0], place) if place < first else (kinds[1], place - first)
            return {"id": self._ids[k][row], "score": score, "kind": k, k: self._payloads[k][row]}

        rows = zip(values.tolist(), places.tolist(), strict=True)
        return [[hit(score, place) for score, place in zip(*row, strict=True)] for row in rows]

    # -- one folder -------------------------------------------------------------------------------------------------
    def save(self, folder: "str | os.PathLike") -> None:
        """Writes `embeddings.safetensors`, `items.jsonl` and `index.json`; a folder that is there is replaced whole.

        Pictures that were given as objects have no path to write: their ids and vectors are saved alone.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / "index.json").is_file() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something else; choose an empty folder or an index for the index.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            aside.chmod(0o755)  # temporary folders are private
            tensors = {kind: self._matrix(kind).contiguous() for kind in KINDS if self._ids[kind]}
            if self.probe is not None:
                tensors["probe"] = self.probe.detach().float().cpu().contiguous()
            save_file(tensors, aside / "embeddings.safetensors")
            pathless = 0
            with open(aside / "items.jsonl", "w", encoding="utf-8") as file:
                for kind in KINDS:
                    for item_id, payload in zip(self._ids[kind], self._payloads[kind], strict=True):
                        if isinstance(payload, os.PathLike):
                            payload = str(payload)
                        if not (payload is None or isinstance(payload, (str, int, float, list, dict))):
                            payload, pathless = None, pathless + 1
                        record = {"kind": kind, "id": item_id, "payload": payload}
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
            counts = {kind: self.count(kind) for kind in KINDS}
            (aside / "index.json").write_text(json.dumps({"format": _FORMAT, "counts": counts}), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if pathless:
            warnings.warn(f"{pathless} pictures were given as objects: saved without a path.", stacklevel=2)

    @classmethod
    def load(cls, folder: "str | os.PathLike") -> "RetrievalIndex":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: when the folder holds no index.
            ValueError: when it is damaged or of a newer format.
        """
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise FileNotFoundError(f"{folder} holds no index (no index.json). Make one with `save_index`.")
        try:
            about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            counts = {kind: about["counts"][kind] for kind in KINDS} if about.get("format") == _FORMAT else None
            with open(folder / "items.jsonl", encoding="utf-8") as file:
                records = [json.loads(line) for line in file] if counts else []
            mine = {kind: [(r["id"], r["payload"]) for r in records if r["kind"] == kind] for kind in KINDS}
            with safe_open(folder / "embeddings.safetensors", framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # whatever a damaged file makes a reader raise
            raise ValueError(f"The index in {folder} is damaged ({error!r}); build it again.") from error
        if counts is None:
            raise ValueError(f"The index in {folder} has format {about.get('format')}; this version reads {_FORMAT}.")
        index = cls(tensors.get("probe"))
        for kind in KINDS:
            rows = tensors.get(kind, torch.empty(0, 0))
            if not len(mine[kind]) == len(rows) == counts[kind]:
                raise ValueError(
                    f"The index in {folder} is damaged: {counts[kind]} {kind}s, of which it holds {len(mine[kind])} "
                    f"items and {len(rows)} vectors; build it again."
                )
            index.add(kind, [item_id for item_id, _ in mine[kind]], rows, [payload for _, payload in mine[kind]])
        return index


__all__ = ["KINDS", "RetrievalIndex"]
