from opensafely_lab.ehrql.tables.core import *
