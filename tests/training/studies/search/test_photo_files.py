"""Files of distinct content and equal pixels."""

import numpy as np
from PIL import Image

from training.studies.search.photo_files import encode_photos, write_photos


def test_every_file_has_its_own_content_and_the_pixels_of_its_photograph(corpus, tmp_path):
    encoded = encode_photos(str(corpus / "train.parquet"), 2, width=96)
    paths = write_photos(tmp_path, encoded, range(5))
    assert (
        paths == sorted(path for path in tmp_path.rglob("*.jpg")) and len({path.read_bytes() for path in paths}) == 5
    )
    pixels = [np.asarray(Image.open(path)) for path in paths]
    assert pixels[0].shape[1] == 96 and Image.open(paths[3]).info["comment"] == b"3"
    assert (pixels[0] == pixels[4]).all() and (pixels[0] != pixels[1]).any()
