# Tracing, statistics and dumps of the software PC.
TEST_COMMANDS += tests/trace
