"""Files become photographs: walks over folders, decoders within a budget of memory, videos and previews."""
