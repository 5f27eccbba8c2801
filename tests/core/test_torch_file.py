"""The reader of PyTorch's files, on two files that PyTorch 2.11 saved."""

import base64
import io
import os
import pickle
import zipfile
import zlib

import numpy as np
import pytest

from gan_jax.metrics.torch_file import read_state

# state = OrderedDict(a=torch.arange(6.0).reshape(2, 3).T, b=torch.tensor([True, False]),
#                     c=torch.tensor(7))
# state._metadata = OrderedDict(version=1)
# torch.save(state, file, _use_new_zipfile_serialization=...), then zlib.compress, then base64
FILES = {
    "zip": """
eNqlVTFv00AUPjuNkxhIm0KbtkABsaRSSJPYrRMq2soCMxiJEIQUsUSO4yYWbtyzL0UgIVVCrcQGLDAhRn4BdGKAjY2FiY0B
MfET4M5OXNtVEmhPuZwUv+97X96977kiR8YAiMfBoTUBJoFiqW19W1tsKkjJbT0wJDEJ7gfWDq2qpmFoKtLNjs3etpqapTWv
6ypiIVioQipTozCZAmkVmZgtV+8i3bDZuqU1urrRrCOtY5tWfbvIwkgmU4vhYBtHKi0NjrkQVjJMBd11f2Rh1CHMQ6YWwae6
1YUxmUEwfkcGckSm92BCpuTIHmSftYmAEwierMJTDqgBk22cpN0nFk3T8HjHnZACnGjHZBrBFOGjd+GkTO3C0y7XGQSnqnDa
CVRhOsB1y+y0PK4ZJ6QIZzEXheAc5lpYcDnOIniuCs93n8D5WgIH1Tc1pJD6wgvO84tOCbY1y8YFhZdkyrYbuYoci7/KRj9v
YFqyKwNvLQ2mvFvLbZjWpoLqPTJJTIUuD68Cof7w+/tTIpjswdRzQDig7t1RXTH0VmdT6yBJ5A6zj17LPBGw9hD+onEKeqiA
FFjzBDQeIc0kzSaJK0fJ21+GjpChEQ27137MMjgLM1RDEqwGXLGYl8SrxxDgsu6s4a91/MF7B++360RR+vnPFzP4wcwIRdmg
ooIkZv5ZEQVIpo+XP9VG1z8JxGCmoiSuHqf4eMV63ETF1refJkkbH6piHKx4KrzOFo4qg2NJ5q9vWvdG//95UDwwgFMAW7N0
7IDHCpl+db0pibn/FJIv8WW+VCrxQnl5Kc+XBG4pn+fyXJkXOG6JXxY4XiiUhTJReSP7ZT+DdWQclRQR6+n0T4eJQ8rDczyM
9g+AdAD5ngKD5kmYxG/iuaBxaTBkcoR5/EZMBXhe+ni8ARCG+12TDMCnIyDk3TDW74Mg9l0YWwhj/d0bxE6OhbDFMNbff+MB
7GsfdkDd/W0xH0wcBSMatiIzTLbf3pErHjIROm/S7rkf7duVcZz7p+df980RZVxMwol3Y/8CuPDQfQ==
""",
    "sequence": """
eNptkstu1DAUhm0nM0MNLW25llvLLrMZdUad0KyoEOrGXIeNNyjKJFYTFOI5sVMJpJFm0wp4BhYseTUeAYkFJ0lbqDRW7CTH
53z/r2Mv2Dee//l++Hvnw883W4MFe/nLwXUOxJPrhJBZqa2OdR4eq9JkugCKCXIVd/LM2lyFqkiyqAD2RXIM2k8zFZrsszLg
zMH1ZAeDJtWlhY5g0sG/rLDQFa50a4YujqAn3KpCzRhlchVbVDH8dZmoUiXPs9hyIP0JUE9SrIiAxVaXcToIK5vlhoelmlZZ
noRWFUaX4fGIg+N5slcLY2Z0pMBtS/hhriP7rg1y6Mg1zAn2guHQH43H48APfOg2HuNZhba6ryxceSuIcAQ7hRVBhXMK/Gta
27lq4doEVhtPU1hLUTI9l3mmdX6hcv2fyng09J/4/v4+rKc9wZC+UdPZCWwKegI3WvJNC7cmcLshx3DnEvkF9uuCfPcSOQh2
R3u7sIVkiuR7SO73W+J9Cw8m8LCawyO5giXhR2WjJLIRbDf7O02zzg/4saDGTPE83td3YIl5ukyXLWumowaMtIMSevbVO3t3
yf9j8RSXA3xwLnD+OPgLdF6mng==
""",
}


def content(kind):
    return zlib.decompress(base64.b64decode(FILES[kind]))


class Attack:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def zipped(pickled):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return file.getvalue()


def sequence(pickled):
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)


@pytest.mark.parametrize("kind", FILES)
def test_both_formats(kind):
    state = read_state(content(kind))
    expected = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "b": np.array([True, False]),
        "c": np.array(7),
    }
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("wrap", [zipped, sequence])
def test_code_is_refused(wrap, tmp_path):
    attack = Attack(str(tmp_path / "made"))
    for state in (attack, {"a": attack}):
        pickled = pickle.dumps(state, 2)
        with pytest.raises(ValueError, match="mkdir, which is no plain tensor"):
            read_state(wrap(pickled))
    assert not (tmp_path / "made").exists()
    pickle.loads(pickled)  # the attack is one
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"", "not a state dict"),
        (b"PK", "not a state dict"),
        (b"\x89PNG", "not a state dict"),
        (pickle.dumps({"a": 1}), "does not begin as one"),
        (zipped(pickle.dumps([1])), "holds a list"),
        (sequence(pickle.dumps({"epoch": 3})), "'epoch' is a int, not a tensor"),
        (content("sequence")[:-30], "not a state dict"),
        (content("sequence")[:-1], "a is cut off"),
        (content("sequence").replace(b"K\x03K\x02\x86", b"K\x09K\x02\x86"), "not a state dict"),
    ],
    ids=range(9),
)
def test_damaged_files_are_refused(damaged, message):
    with pytest.raises(ValueError, match=message):
        read_state(damaged)
