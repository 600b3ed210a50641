"""What pyproject.toml cannot say: the C library is loaded through ctypes, by any Python 3."""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class AnyPython(build_ext):
    """Names the library without the version of the Python that built it."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + EXTENSION_SUFFIXES[-1]


class AnyPythonWheel(bdist_wheel):
    """One wheel a platform, not one for each Python as well."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_ext": AnyPython, "bdist_wheel": AnyPythonWheel})
