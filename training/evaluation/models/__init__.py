"""The models that are evaluated, with the preparation of their images and texts.

- `zero_shot_model.py`: a model of any family: encode images and texts
- `image_loading.py`: images decoded, resized and normalized in threads
- `text_settings.py`: text preparation of a model: its family's row, or its own config
- `clip_benchmark.py`: our models inside the `clip-benchmark` package
"""
