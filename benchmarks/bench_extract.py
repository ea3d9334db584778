"""How near the extractor comes to what the machine allows; and that memory stays flat.

``python benchmarks/bench_extract.py [--emoji DIR]``. Needs the extras [extract], [demo]
and [onnx]. All rates of one table are medians of repeats taken in turn in one run, so
that other load on the machine falls on all alike.

Columns: the bare forward pass on tensors in memory (all threads); bare decoding and
transform (one process, times the number of cores); what both allow together,
1 / (t_forward + t_decode), as on a CPU both want the same cores; the extraction from
files to finished cache; and the plain loop that a user would write (PIL, timm's
transform, eager network, batches of 32).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rezsl_features import extract_features, find_images, load_backbone, read_image
from rezsl_features._network import Runner
from rezsl_features._settings import ENGINES

BATCH = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emoji", type=Path, help="folder that holds images/")
    parser.add_argument("--images", type=int, default=768, help="images per measure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=100_000, help="0: leave it out")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        return peak(*args.peak_of)
    print(
        f"{os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} before"
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.images:
            sets = {"500 x 375": draw_photos(folder / "photos", args.images)}
            if args.emoji:
                files = find_images(args.emoji / "images").files
                # Spread over the list: its classes differ in their styles.
                chosen = np.linspace(0, len(files) - 1, args.images).astype(int)
                sets["emoji"] = [files[i] for i in chosen]
            for name, files in sets.items():
                compare(name, files, folder, args.repeats)
        if args.memory:
            memory(folder / "small", args.memory)


def draw_photos(folder, n):
    """JPEGs of smooth noise: as hard to decode as photographs, about 60 KB each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for i in range(n):
        coarse = rng.integers(0, 256, (94, 125, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:05d}.jpg", quality=90)
        files.append(str(folder / f"{i:05d}.jpg"))
    return files


def compare(name, files, folder, repeats):
    backbone = load_backbone(
        "tf_efficientnet_lite0", weights="package:efficientnet-lite0"
    )
    few = files[: 4 * BATCH]
    batch = torch.stack([backbone.transform(read_image(f)) for f in few[:BATCH]])
    runners = {
        engine: Runner(
            load_backbone(
                "tf_efficientnet_lite0", weights="package:efficientnet-lite0"
            ),
            {
                "device": "cpu",
                "amp": "off",
                "engine": engine,
                "threads": torch.get_num_threads(),
            },
        )
        for engine in ENGINES
    }
    reference = runners["torch"](batch)
    for engine, run in runners.items():
        error = (run(batch) - reference).abs().max() / reference.abs().max()
        print(f"{engine}: features differ from eager torch's by {error:.1g} of the top")
    seconds = {}

    def measure(key, function, n):
        start = time.perf_counter()
        function()
        seconds.setdefault(key, []).append((time.perf_counter() - start) / n)

    def decode():
        for file in few:
            backbone.transform(read_image(file))

    def loop():
        with torch.inference_mode():
            for i in range(0, len(few), BATCH):
                images = [Image.open(f).convert("RGB") for f in few[i : i + BATCH]]
                backbone.model(torch.stack([backbone.transform(x) for x in images]))

    for repeat in range(repeats):
        measure("decode", decode, len(few))
        measure("loop", loop, len(few))
        for engine, run in runners.items():
            measure(("forward", engine), lambda run=run: (run(batch), run(batch)), 64)
            out = folder / f"{name}-{engine}-{repeat}.h5"
            measure(
                ("whole", engine),
                lambda out=out, engine=engine: extract_features(
                    files, backbone, out, engine=engine, device="cpu"
                ).close(),
                len(files),
            )
    seconds = {key: median(values) for key, values in seconds.items()}
    decode_s = seconds["decode"] / os.cpu_count()
    print(
        f"\n{name}: {len(files)} images; images/s; decoding {1 / decode_s:.0f} on all "
        f"cores; plain loop {1 / seconds['loop']:.1f}"
    )
    print("engine          forward  allowed   whole   whole/allowed   whole/loop")
    for engine in ENGINES:
        forward, whole = seconds["forward", engine], seconds["whole", engine]
        allowed = 1 / (forward + decode_s)
        print(
            f"{engine:<14} {1 / forward:>8.1f} {allowed:>8.1f} {1 / whole:>7.1f} "
            f"{1 / whole / allowed:>15.2f} {seconds['loop'] / whole:>12.2f}"
        )
    print(flush=True)


def memory(folder, n):
    """Peak resident set over a hundredth of the images and over all of them."""
    folder.mkdir()
    for i in range(n):
        color = (i % 256, i // 256 % 256, i // 65536)
        Image.new("RGB", (8, 8), color).save(folder / f"{i:07d}.png")
    for count in (n // 100, n // 10, n):
        command = [sys.executable, __file__, "--peak-of", str(folder), str(count)]
        subprocess.run(command, check=True)


def peak(folder, count):
    """In a process of its own: the highest resident set so far is the process's."""
    files = [str(path) for path in sorted(Path(folder).iterdir())[: int(count)]]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 512))
    start = time.perf_counter()
    extract_features(
        files,
        network,
        f"{folder}-{count}.h5",
        transform=as_tensor,
        batch_size=256,
    ).close()
    seconds = time.perf_counter() - start
    main_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    worker_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{count:>8} small images: peak resident set {main_mb:.0f} MB, of the largest "
        f"worker {worker_mb:.0f} MB; {int(count) / seconds:.0f} images/s",
        flush=True,
    )


def as_tensor(image):
    return torch.from_numpy(np.array(image.resize((8, 8)))).float()


if __name__ == "__main__":
    main()
