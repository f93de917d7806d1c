# Copyright: The hpc.compute authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints of public keys, against what gpg and Apptainer say of the same keys."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.hpc.compute.plugins.module_utils.containers.public_key import fingerprint

#: Made for this test with ``apptainer key newpair``, which also told the fingerprint.
_KEY = """\
-----BEGIN PGP PUBLIC KEY BLOCK-----

xsBNBGsFey8BCADAJ180bsvoOgtbNPywblBA6U7Grj07W5wMLszkDM0LJwiebONV
/kIrk9sQEFG5NiOpYq6DcEMivTjvpDGyeK8S9HDR+vKjFmmv/vJD5IUFia97IpzN
SCUvQ/AF9UykZ2ZIkVwgWs69p+eNRpYe27Ios0fcr0SAZSWlKfv82C4RZP4OzKFk
h7xzVz4qpMNaRefOai0MFAupY3DQHbvoseSfxGImRRUsDgBwgKVoT8FJ3cJAFcDJ
zpSrVPK5AdiqV4TVqsGgTd0CWGf8hHPbA7+Of2fJpNxsmHcLJiaLVrDhJoBIxMC5
tUkJ9C5zHfYPtE2dmIKpS39WCu7rbQIbhEzFABEBAAHNF1Rlc3QgPHRlc3RAZXhh
bXBsZS5vcmc+wsDEBBMBCQB4BYJrBXsvAgsHCRBaQ5KPSNaQ3z0UAAAAAAAcABhz
YWx0QG5vdGF0aW9ucy5vcGVucGdwanMub3JnwnrtEnbiTHX6VLNseR5ijZMdi6bX
ctqLAxUJCAIWAAIZAQKbAwIeARYhBMXBVPyay9j0hk4K9FpDko9I1pDfAACd8ggA
nkEs5fcTVPJq/6C2tjSj63J3KHacUg5R1mteDV0J8w2ng/PoDxzw8XMyTovziY1k
Pai+hpySrVgftFXI/Qbe6RYxmxuwmhbIsOMopFJbgaAHIH3o07HkAt13wxLxzRI0
ZxqroQeELdbXzQOCXn395IWrySz1OhnScnBmFfpTGr6KsSzogN88x3V6m/wmH9KX
MqK+iXU5F8Wqii1xcW2nrad680XBe6C2gQgEjxXFx/5/a9mbh9bvg7K5l0UVPRwC
GmT5wL/UFj9zNlkAkLJDIPEyBZuy8G++2JHlyynlazX+vb2WveXxpCJK/d5sbKOE
q16FTKteKGrBuTnqhUPXgc7ATQRrBXsvAQgA1E94Lg56TGF82BNGyERKOjRQQeta
+DAfR1SxsfcDnZRc6yu6e61JvcSzhEXAGfd7vSsCgRN3AVS+HFLUHaHTrL49hk2U
0QTUCKviQrwhfOYukRpdDeUQRhIVfn+w8K01v9EgnZ5GzbYKvo3NrxIWnfG0mSHw
M3FyOiBjq7Awt5PEKXJNGaAkEeqqqh7cjdWHwW17nysoGlRWGP7xyOfbz3fOpnTK
4aUFvcPAjGOJWvR0mPWQk4IiyKzdB3OTl78DXcOKuMSULXsiBNZXZc/kKayArwI5
0LeQBS4Kkf7VcRVKcOfzsYbkMwPybyUuz3WRS/QjixpcThIytevy2dlBVQARAQAB
wsC0BBgBCQBoBYJrBXsvCRBaQ5KPSNaQ3z0UAAAAAAAcABhzYWx0QG5vdGF0aW9u
cy5vcGVucGdwanMub3JnTZfOA6xUDtG0YsumKXjKPgVM2FO3vyQ3ApsMFiEExcFU
/JrL2PSGTgr0WkOSj0jWkN8AALR9B/4hI3B3acod2vMmfG6EPBZ/Hf4Ks3Y1bgXS
zNlaUsNPaf1jqFVZMnJIoXcoJPJmzDwTRlwmzsLGPMjLc/Qvj8tiRHPAMwECFhnv
DYG0mqHOLHwpzpWPz0LJyD+Pzc8onH8MCrDnZhUrbsImNc4Uc35KIUawIAGNwyeg
pOGcG/rqCvL50gXsPNiO/TtqlRMdZq0kA/B022NFCOtAcuy1p1YK/t9LIj7p1FW/
03ehJcw+YBLfSA5d52stL8f8gXyx6QBUhm9FG3ojhdPWIu/qvuTb4NkwJjftAG9l
1Ei/lYMIVP0MKTk7lJU9+rRb8mzo4zRfc0wYT0xvBPRuDwa2Cmd7
=JNss
-----END PGP PUBLIC KEY BLOCK-----
"""
_FINGERPRINT = "C5C154FC9ACBD8F4864E0AF45A43928F48D690DF"


def _armored(data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{text}\n-----END PGP PUBLIC KEY BLOCK-----\n"


def test_a_real_key() -> None:
    assert fingerprint(_KEY) == _FINGERPRINT
    assert fingerprint(_KEY.replace("\n", "\r\n")) == _FINGERPRINT
    with_header = _KEY.replace("BLOCK-----\n", "BLOCK-----\nComment: a: b\n", 1)
    assert fingerprint(with_header) == _FINGERPRINT


def test_all_ways_to_write_a_length() -> None:
    """The same body in every packet format has the same fingerprint."""
    body = b"\x04" + bytes(range(200)) * 5
    size = len(body)
    forms = [
        b"\x99" + size.to_bytes(2, "big"),
        b"\x9a" + size.to_bytes(4, "big"),
        b"\xc6" + bytes([((size - 192) >> 8) + 192, (size - 192) & 0xFF]),
        b"\xc6\xff" + size.to_bytes(4, "big"),
    ]
    assert len({fingerprint(_armored(form + body)) for form in forms}) == 1
    short = b"\x04" * 100
    assert fingerprint(_armored(b"\x98\x64" + short)) == fingerprint(_armored(b"\xc6\x64" + short))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a public key from"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "expected a public key from"),
        (_KEY.replace("END PGP", "END"), "expected a public key from"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!\n-----END PGP PUBLIC KEY BLOCK-----", "cut off or damaged"),
        (_armored(b""), "cut off or damaged"),
        (_armored(b"\x99\x00\x09\x04"), "cut off or damaged: 1 of 9"),
        (_armored(b"\x99\x00\x00"), "cut off or damaged"),
        (_armored(b"\x04abc"), "expected an OpenPGP packet"),
        (_armored(b"\x9b\x04"), "a packet with a length"),
        (_armored(b"\xc6\xe1\x04"), "in one piece"),
        (_armored(b"\xc2\x02\x04\x04"), "found packet 2"),
        (_armored(b"\xc6\x02\x06\x04"), "version 4, found version 6"),
    ],
)
def test_what_is_no_key(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fingerprint(text)
