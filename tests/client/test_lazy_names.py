"""Who wants the stubs alone pays for nothing else."""

import subprocess
import sys

import pytest

import oddstream


def test_importing_the_stubs_loads_neither_the_clients_nor_the_command():
    code = """
import sys, oddstream.v1.signal_pb2
ours = [m for m in sys.modules if m.startswith("oddstream.") and not m.startswith("oddstream.v1")]
print(ours, "grpc" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


@pytest.mark.parametrize("name", oddstream.__all__)
def test_every_public_name_is_found(name):
    assert getattr(oddstream, name).__module__.startswith("oddstream.")
    assert name in dir(oddstream)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Nothing"):
        _ = oddstream.Nothing
