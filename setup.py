"""Only the package map, which pyproject.toml cannot say: conf/ ships as cooper.conf."""

from setuptools import find_namespace_packages, setup

# Groups are listed as packages too: setuptools warns about folders of data that look like some.
GROUPS = [f"cooper.conf.{group}" for group in find_namespace_packages("conf")]

setup(
    package_dir={"": "src", "cooper.conf": "conf"},
    packages=[*find_namespace_packages("src"), "cooper.conf", *GROUPS],
    package_data={"cooper": ["py.typed"], "cooper.conf": ["**/*.yaml"]},
)
