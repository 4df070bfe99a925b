"Caches that repair themselves, are private and leave no litter; components known by what their code does."
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from al_cifar.data.folder import load_folder
from al_cifar.data.images import ARRAYS
from al_cifar.data.saved import read_data, save_data, user_cache


def toy_folder(root, shade=0, suffix="png"):
    "Three training images and one test image of 8x8 for each of two classes."
    for split, n in ("train", 3), ("test", 1):
        for c, name in enumerate(("dark", "light")):
            (root/split/name).mkdir(parents=True)
            for i in range(n): Image.new("RGB", (8, 8), (shade + 99*c + i,) * 3).save(root/split/name/f"{i}.{suffix}")
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    return user_cache()


def test_a_swapped_entry_is_refused(tmp_path, cache):
    one, other = toy_folder(tmp_path/"one"), toy_folder(tmp_path/"other", 7)
    places = [Path(load_folder(root).source[1]) for root in (one, other)]
    prints = [load_folder(root).fingerprint for root in (one, other)]
    places[0].rename(tmp_path/"aside")
    places[1].rename(places[0])
    assert load_folder(one).fingerprint == prints[0] != prints[1]
    assert load_folder(other).fingerprint == prints[1]
    assert os.listdir(cache) and read_data(places[0]).fingerprint == prints[0]  # written anew


def test_the_cache_is_private(tmp_path, cache):
    load_folder(toy_folder(tmp_path/"mine"))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def dead_process():
    "The number of a process that has ended."
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def litter(cache, name, hours):
    "A temporary folder as a writer leaves it, last touched so many hours ago."
    folder = cache/name
    (folder/"new").mkdir(parents=True)
    (folder/"new"/"x_train.npy").write_bytes(b"half")
    for path in (folder/"new"/"x_train.npy", folder/"new", folder):
        os.utime(path, (time.time() - 3600*hours,) * 2)
    return folder


def test_litter_of_the_dead_is_swept_and_the_living_write_on(tmp_path, cache):
    dead, key = dead_process(), "0" * 32
    swept = [litter(cache, f".folder-{key}-pid{dead}-abcdefgh", 5), litter(cache, f".folder-{key}-abcd_fg8", 5)]
    kept = [litter(cache, f".folder-{key}-pid{os.getppid()}-abcdefgh", 5),  # its writer lives
            litter(cache, f".folder-{key}-pid{dead}-bbbbbbbb", 0),          # perhaps a process of another machine
            litter(cache, f".folder-{key}-bbbbbbbb", 0),
            litter(cache, ".users-settings", 5), litter(cache, "folder", 5)]  # not ours
    load_folder(toy_folder(tmp_path/"mine"))
    assert not any(folder.exists() for folder in swept)
    assert all((folder/"new"/"x_train.npy").exists() for folder in kept)


def test_a_writer_that_is_killed_leaves_nothing_for_ever(tmp_path, cache):
    code = ("import os, signal; from unittest.mock import patch; from al_cifar.data import saved, load_data\n"
            "with patch.object(saved, '_move_in', lambda *a: os.kill(os.getpid(), signal.SIGKILL)):\n"
            f"    saved.save_data(load_data('digits'), {str(cache/'entry')!r})")
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    left, = cache.iterdir()
    for path in (*left.rglob("*"), left): os.utime(path, (time.time() - 9000,) * 2)
    load_folder(toy_folder(tmp_path/"mine"))
    assert not left.exists()


def flips_survived(root, places, rng, n):
    "Flip `n` single bits, one after the other; how many were harmless, noticed, and not repaired: {word: count}."
    want, path = load_folder(root), Path(load_folder(root).source[1])
    facts = lambda data: (data.name, data.fingerprint, data.classes, data.pad, data.flip)
    counts = {"harmless": 0, "noticed": 0, "wrong": 0, "not repaired": 0}
    for _ in range(n):
        file = path/places[rng.integers(len(places))]
        content = bytearray(file.read_bytes())
        at = rng.integers(min(len(content), 600))  # all of the header and some of the data
        content[at] ^= 1 << rng.integers(8)
        fresh = file.with_suffix(".flipped")
        fresh.write_bytes(content)
        os.replace(fresh, file)
        try: counts["harmless" if facts(read_data(path)) == facts(want) else "wrong"] += 1
        except ValueError: counts["noticed"] += 1
        except Exception: pass  # the next lines count it
        try: repaired = facts(load_folder(root)) == facts(want) == facts(read_data(path))
        except Exception: repaired = False
        if repaired: continue
        counts["not repaired"] += 1
        for file in path.iterdir(): file.unlink()
    return counts


FILES = [*(f"{name}.npy" for name in ARRAYS), "meta.json"]


@pytest.mark.parametrize("n", [60, pytest.param(4000, marks=pytest.mark.slow)])
def test_any_flipped_bit_is_noticed_and_repaired(tmp_path, cache, n):
    counts = flips_survived(toy_folder(tmp_path/"mine"), FILES, np.random.default_rng(n), n)
    print(f"{n} bit flips: {counts}")
    assert counts["wrong"] == counts["not repaired"] == 0 and counts["noticed"] + counts["harmless"] == n


def test_damaged_arrays_of_a_study_are_repaired_or_named(tmp_path):
    from al_cifar.data.sources import load_data, load_source
    digits = load_data("digits")
    path = save_data(digits, tmp_path/"data")
    header = (path/"y_test.npy").read_bytes()
    for damaged in header.replace(b"{", b"(", 1), header.replace(b"'descr'", b"'descr\\", 1), header[:90]:
        (path/"y_test.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"): load_source(("arrays", str(path)))
        save_data(digits, path)  # what a study does before it sends tasks
        assert load_source(("arrays", str(path))).fingerprint == digits.fingerprint
        from al_cifar.data import sources
        sources._open_source.cache_clear()


def decode_error(path):
    with pytest.raises(ValueError, match="cannot read the image .*" + path.name) as error: load_folder(path.parents[2])
    return str(error.value)


def test_an_eps_named_png_starts_no_interpreter(tmp_path, cache, monkeypatch):
    from PIL import EpsImagePlugin
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kw: started.append(args))
    image = toy_folder(tmp_path/"mine")/"train"/"dark"/"0.png"
    image.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    decode_error(image)
    assert not started


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, cache):
    image = toy_folder(tmp_path/"mine")/"train"/"dark"/"0.png"
    Image.new("1", (9000, 9000)).save(image)  # 10 kB that would become 243 MB
    assert "9000x9000" in decode_error(image)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "jp2", "png", "ppm", "tga", "tif", "webp"])
def test_a_truncated_file_is_one_error_that_names_it(tmp_path, cache, suffix):
    root = toy_folder(tmp_path/"mine", suffix=suffix)
    assert len(load_folder(root).x_train) == 6
    image = root/"train"/"dark"/f"0.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    content = image.read_bytes()
    for n in 0, 1, len(content)//2:
        image.write_bytes(content[:n])
        decode_error(image)
