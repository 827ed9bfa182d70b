import os
import subprocess
import sys

CODE = """
import sys
import impasto.scheduling
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "numpy", "grpc", "asyncio"}))
"""


def test_scheduling_loads_neither_torch_nor_numpy_nor_grpc() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
