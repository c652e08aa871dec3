# /// script
# requires-python = ">=3.11"
# dependencies = [
#     # The client's floor follows from this one: protoc 31.1 makes code for protobuf >= 6.31.1 and grpcio >= 1.74.0,
#     # which also runs on protobuf 7. docs/decisions.md says why not an older one.
#     "grpcio-tools==1.74.0",
#     "mypy-protobuf==5.1.0",
# ]
# ///
"""Make everything that is generated from the contract, or check that what is committed is what would be made.

Run from anywhere as ``uv run --script proto/generate.py [--check]``; the generators live in an environment of their
own, locked in ``generate.py.lock``, and need neither the project's packages nor a remote plugin. ``buf`` is the
project's.

buf compiles the protos and calls this file again as its plugin (``generate.py plugin``), since protoc's Python and
grpc_python generators are inside of grpcio-tools and not programs of their own.
"""

import filecmp
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT_STUBS = Path("clients/python/oddstream/v1")
INTERNAL_MESSAGES = Path("server/oddstream_server/transport/generated")
DESCRIPTOR_SET = Path("server/oddstream_server/transport/contract.binpb")
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def buf_program() -> str:
    """The project's buf: beside the project's Python, or on PATH."""
    beside = ROOT / ".venv" / "bin" / "buf"
    found = str(beside) if beside.exists() else shutil.which("buf")
    if found is None:
        sys.exit("buf was not found: run `make setup` first, it installs buf-bin into .venv")
    return found


def generate_into(target: Path) -> None:
    """Generate all committed files below ``target``, at their paths in the repository."""
    buf = buf_program()
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")])}
    descriptor_set = target / DESCRIPTOR_SET
    descriptor_set.parent.mkdir(parents=True, exist_ok=True)
    for arguments in (
        ["generate", "--template", "buf.gen.yaml", "--output", str(target)],
        ["generate", "--template", "buf.gen.internal.yaml", "--output", str(target)],
        ["build", "--path", "proto/oddstream/v1", "--exclude-source-info", "-o", f"{descriptor_set}#format=binpb"],
    ):
        done = subprocess.run([buf, *arguments], cwd=ROOT, env=environment, check=False)  # noqa: S603 - ours
        if done.returncode != 0:
            sys.exit(f"buf {arguments[0]} failed, see above; nothing was changed")


def generated_files(root: Path) -> set[Path]:
    """The generated files below ``root``, as paths relative to it."""
    found = {
        path.relative_to(root)
        for folder in (CLIENT_STUBS, INTERNAL_MESSAGES)
        if (root / folder).is_dir()
        for path in (root / folder).iterdir()
        if path.name.endswith(GENERATED_SUFFIXES)
    }
    if (root / DESCRIPTOR_SET).exists():
        found.add(DESCRIPTOR_SET)
    return found


def check() -> int:
    """Compare what is committed with what would be made; answers the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate_into(fresh)
        made, committed = generated_files(fresh), generated_files(ROOT)
        stale = sorted(
            path
            for path in made | committed
            if path not in made or path not in committed or not filecmp.cmp(fresh / path, ROOT / path, shallow=False)
        )
    for path in stale:
        print(f"{path} is not what the protos make", file=sys.stderr)
    if stale:
        print("run `make proto` and commit what it changes", file=sys.stderr)
    return 1 if stale else 0


def write() -> int:
    """Replace what is committed with what the protos make; answers the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate_into(fresh)
        made = generated_files(fresh)
        for gone in generated_files(ROOT) - made:
            (ROOT / gone).unlink()
        for path in made:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / path, ROOT / path)
    print(f"{len(made)} files are up to date with the protos")
    return 0


def plugin() -> int:
    """Serve one code generator request of buf on standard input and output with grpcio-tools' protoc.

    The one parameter understood is ``flat``: put the files at the root of the output, without their package's folders.
    """
    from google.protobuf.compiler import plugin_pb2
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    with_services = {file.name for file in request.proto_file if file.service}
    with tempfile.TemporaryDirectory() as scratch:
        image, out = Path(scratch, "image.binpb"), Path(scratch, "out")
        out.mkdir()
        image.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        compile_command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={image}"]
        typed = "readable_stubs,quiet"
        messages = [f"--python_out={out}", f"--mypy_out={typed}:{out}"]
        services = [f"--grpc_python_out={out}", f"--mypy_grpc_out={typed}:{out}"]
        names = sorted(request.file_to_generate)
        subprocess.run(compile_command + messages + names, check=True)  # noqa: S603 - ours
        serving = [name for name in names if name in with_services]
        if serving:
            subprocess.run(compile_command + services + serving, check=True)  # noqa: S603 - ours
        for path in sorted(out.rglob("*_pb2*.py*")):
            name = path.name if request.parameter == "flat" else str(path.relative_to(out))
            response.file.add(name=name, content=path.read_text())
    sys.stdout.buffer.write(response.SerializeToString())
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            sys.exit(write())
        case ["--check"]:
            sys.exit(check())
        case ["plugin"]:
            sys.exit(plugin())
        case _:
            sys.exit("usage: generate.py [--check]")
