"""The parts by name, in the order of a first run on a GPU: what everything else depends on, then what tells most a second."""
NAMES = ("preflight", "layouts", "ops", "ours", "profile", "counters", "golden", "peer", "fusions", "sanitizer", "variants", "goldens",
         "peers", "compile")
