"""Other processes' command lines, to be shown: a secret in one was not meant for us."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

STARS = "********"
# What is called so is no matter of others; a tokenizer is none.
CALLED = r"token(?!i[sz])|secret|passw|passphrase|credential|(?:api|access)[-_]?key"
NAME = r"[\w.-]*(?:%s)[\w.-]*" % CALLED
GIVEN = re.compile(r"(%s=)[^\s'\"]+" % NAME, re.IGNORECASE)
OPTION = re.compile(r"--?%s\Z" % NAME, re.IGNORECASE)
# By how they begin (Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS), and what stands in a URL.
KNOWN = re.compile(r"\b(?:hf_|sk-|gh[opsu]_|github_pat_|glpat-|xox[abprs]-|AKIA)[\w-]{8,}")
IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)")


def shown(words: Iterable[str], most: int) -> str:
    told = []
    hide = False
    for word in words:
        if hide and not word.startswith("-"):
            told.append(STARS)
        else:
            given = GIVEN.sub(r"\g<1>" + STARS, word)
            told.append(IN_URL.sub(r"\g<1>" + STARS, KNOWN.sub(STARS, given)))
        hide = OPTION.match(word) is not None
    return " ".join(told).strip()[:most]
