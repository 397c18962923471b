NAME = "probe_lib"
