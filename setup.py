"""What the package is, what it needs, and what it installs. The settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    text = (HERE / "synapse_like" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("there is no __version__ in synapse_like/__init__.py")
    return match[1]


# The lower bounds are the oldest that the tests pass with; the upper ones are the next major versions.
POSTGRES = ["psycopg[binary]>=3.2.4,<4"]
TEST = [
    *POSTGRES,
    "aiosmtpd>=1.4.6,<2",
    "canonicaljson>=2.0,<3",
    "coverage>=7.6,<8",
    "hypothesis>=6.100,<7",
    "import-linter>=2.5,<3",
    "mypy>=1.19,<3",
    "mypy-zope>=1.0.14,<2",
    "playwright>=1.49,<2",
    "pytest>=8.0,<10",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.17,<0.18",
    "types-Authlib>=1.6",
    "types-PyYAML>=6.0,<7",
    "types-cachetools>=6.0",
    "types-vobject>=0.9.9",
]

setup(
    name="synapse_like",
    version=version(),
    description="A Matrix home server",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Said although it is the default: so an editable installation has the whole checkout on the path, plugin included.
    package_dir={"": "."},
    packages=find_packages(include=["synapse_like", "synapse_like.*"]),
    package_data={
        "synapse_like": ["py.typed", "templates/*/*"],
        "synapse_like.http.pages": ["templates/*"],
        "synapse_like.storage": ["schema/*.sql"],
        "synapse_like.webclient": ["static/*", "static/*/*"],
        "synapse_like.storage.identity": ["schema/*.sql"],
    },
    # As a module and not as a package: twisted/plugins must stay without an __init__.py.
    py_modules=["twisted.plugins.synapse_like_plugin"],
    zip_safe=False,
    install_requires=[
        "Twisted[tls]>=26.4,<27",
        "cryptography>=43",
        "pyOpenSSL>=24.2",
        "service-identity>=24.1",
        "zope.interface>=6.0,<9",
        "msgspec>=0.19,<1",
        "orjson>=3.10,<4",
        "PyYAML>=6.0.1,<7",
        "click>=8.2,<9",
        "structlog>=25.1,<27",
        "cachetools>=5.5,<9",
        "argon2-cffi>=23.1,<26",
        "Pillow>=11.3,<14",
        "PyNaCl>=1.5,<2",
        "signedjson>=1.1.4,<2",
        "unpaddedbase64>=2.1,<3",
        "Jinja2>=3.1,<4",
        "Authlib>=1.9,<2",
        "joserfc>=1.8,<2",
        "phonenumbers>=8.13,<10",
        "vobject>=0.9.9,<1",
        "prometheus-client>=0.21,<1",
    ],
    extras_require={
        "postgres": POSTGRES,
        "test": TEST,
        "fuzz": [*TEST, "atheris>=3.0,<4"],
        "bench": [*TEST, "matplotlib>=3.9,<4"],
    },
    entry_points={"console_scripts": ["synapse_like = synapse_like.__main__:main"]},
)
