"""What each job code means, in one sentence, and what to do next. The only words about a job outside level 4."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from opensafely_lab.wire.base import JobCode


@frozen
class JobSentence:
    sentence: str
    next_step: str


SENTENCES: Mapping[JobCode, JobSentence] = MappingProxyType(
    {
        JobCode.CREATED: JobSentence(
            "The jobs site has this job; the backend has not fetched it yet.",
            "Wait: a backend asks for work every few seconds.",
        ),
        JobCode.WAITING: JobSentence(
            "The backend has this job and will begin when it has room.",
            "Wait, or cancel the job.",
        ),
        JobCode.PREPARING: JobSentence(
            "The backend is unpacking the code and making the dataset.",
            "Wait, or cancel the job.",
        ),
        JobCode.EXECUTING: JobSentence(
            "The notebook is running on real records, in a sealed sandbox.",
            "Wait, or cancel the job.",
        ),
        JobCode.CHECKING: JobSentence(
            "The run has ended; the disclosure gate is computing what may be shown.",
            "Wait: the result appears in the panel.",
        ),
        JobCode.SUCCEEDED: JobSentence(
            "The job has succeeded.",
            "With level 4 permission, read its result in the OpenSAFELY panel.",
        ),
        JobCode.RUN_FAILED: JobSentence(
            "The run on real records failed; outside level 4 nothing more can be said about why.",
            "Run it on dummy data, which tells everything; look for values or empty groups that only real records "
            "have, or for a limit of memory or time.",
        ),
        JobCode.REFUSED: JobSentence(
            "The backend refused this job: a permission has ended, or the code, the dataset definition or the policy "
            "is not what was submitted.",
            "Submit the notebook again; if it is refused again, ask the lead of your project to check its permissions.",
        ),
        JobCode.CANCELLED: JobSentence(
            "The job was cancelled; nothing of it is kept.",
            "Submit it again when you need it.",
        ),
        JobCode.PLATFORM: JobSentence(
            "Something of ours broke, not your code; the backend tried three times.",
            "Submit it again later; if it happens again, tell the backend's operator the job's id.",
        ),
    }
)


def sentence(code: JobCode) -> JobSentence:
    return SENTENCES[code]
