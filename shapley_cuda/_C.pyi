version: str
torch_version: str
cuda_version: str
cuda_archs: str

def cpu_isa() -> str: ...
