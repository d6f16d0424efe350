# For editors and mypy: `import ehrql` is opensafely_lab.ehrql (opensafely_lab.ehrql_finder).
from opensafely_lab.ehrql import *
