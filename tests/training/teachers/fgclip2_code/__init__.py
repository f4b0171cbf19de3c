"""Code that travels beside weights, with the interface of FG-CLIP 2 (360CVGroup/FG-CLIP): a small model of our own."""
