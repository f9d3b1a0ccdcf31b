"""What pyproject.toml cannot say: the wheel carries the files of the published tables."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithTables(build_py):
    """Copies experiments/<paper>/<table>.toml to symlearn/runs/tables/<paper>/."""

    def run(self) -> None:
        """See `build_py`."""
        super().run()
        if self.editable_mode:  # the checkout's own are found
            return
        tables = sorted(Path("experiments").glob("*/*.toml"))
        if not tables:
            raise FileNotFoundError("experiments/*/*.toml, which the wheel carries, are not here")
        for table in tables:
            place = Path(self.build_lib, "symlearn", "runs", "tables", table.parent.name)
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(table, place)


setup(cmdclass={"build_py": WithTables})
