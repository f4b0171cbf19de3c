"""A static web page that labels and searches images in the browser, for any web server.

assemble.py  write page, libraries, model and images to one folder
images.py    write the images and their embeddings
serve.py     serve the folder on localhost
chromium.py  run Chromium headless, for tests and measurements
"""
