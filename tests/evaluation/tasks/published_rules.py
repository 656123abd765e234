"""The public rules of simple-evals of November 2024 and of lm-eval, written again as the tests understand them.

Nothing here is shared with megaphi: each function takes a response and says what the rule extracts.
"""

from __future__ import annotations

COLONED = [
    *(
        "Answer:",
        "Answer:" + 6 * "\u200b",
        "উত্তর:",
        "उत्तर:",
        "উত্তরঃ",
        "Antwort:",
        "답변:",
        "정답:",
        "답:",
        "答案：",
        "答案:",
        "答：",
        "答:",
    ),
    *("答复：", "答曰：", "الإجابة:", "الجواب:", "إجابة:", "الإجابة النهائية:", "الإجابة الصحيحة:"),
    *("الإجابة الصحيحة هي:", "الإجابة هي:", "Respuesta:", "Risposta:", "答え:", "答え：", "回答:", "回答：", "解答:"),
    *("Jawaban:", "Réponse:", "Resposta:", "Jibu:", "Idahun:", "Ìdáhùn:", "Idáhùn:", "Àmọ̀nà:", "Àdáhùn:"),
    *("Ànúgọ:", "Àṣàyàn:"),
]
LETTER_OF = {"أ": "A", "ب": "B", "ج": "C", "د": "D", "অ": "A", "ব": "B", "ড": "C", "ঢ": "D"}
WIDE = {"Ａ": "A", "Ｂ": "B", "Ｃ": "C", "Ｄ": "D"}
GOES = [
    "**",
    "$\\boxed{",
    "}$",
    "\\$",
    "$\\text{",
    "$",
    "\\mathrm{",
    "\\{",
    "\\text",
    "\\(",
    "\\mathbf{",
    "{",
    "\\boxed",
]


def skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def first_letter(text: str, word: str, allowed: str) -> str:
    """A scan without regular expressions: the word in any case, white space, colon, white space, one of the letters."""
    word, tail = word.rstrip("\u200b"), word[len(word.rstrip("\u200b")) :]
    name, colon = (word[:-1], word[-1]) if word[-1] in ":：" else (word, "")
    is_arabic = any("\u0600" <= one <= "\u06ff" for one in word)
    for start in range(len(text)):
        if text[start : start + len(name)].casefold() != name.casefold():
            continue
        place = start + len(name)
        if colon:
            place = place if is_arabic else skip_space(text, place)
            if text[place : place + 1] != colon:
                continue
            place += 1
        if not text.startswith(tail, place):
            continue
        place = skip_space(text, place + len(tail))
        if text[place : place + 1] and text[place].casefold() in allowed.casefold():
            return text[place]
    return ""


def gpqa_letter(text: str, options: int = 4) -> str:
    return first_letter(text, "Answer:", "ABCDEFGHIJ"[:options])


def mmlu_letter(text: str) -> str:
    """As it is written: `ب` and not B."""
    for one in GOES:
        text = text.replace(one, "")
    arabic = "".join(map(chr, range(0x0623, 0x0630)))
    for word in COLONED:
        if found := first_letter(text, word, "ABCD" + arabic + "".join(LETTER_OF) + "".join(WIDE)):
            return found
    return ""


def latin_letter(letter: str) -> str:
    return {**LETTER_OF, **WIDE}.get(letter, letter)


def math_result(text: str) -> str | None:
    """Everything up to the line's end, from the first character behind the first `answer:` that is no white space."""
    lowered = text.lower()
    place = -1
    while (place := lowered.find("answer", place + 1)) >= 0:
        colon = skip_space(text, place + len("answer"))
        if text[colon : colon + 1] == ":":
            start = skip_space(text, colon + 1)
            if start < len(text):
                return text[start:].split("\n", maxsplit=1)[0]
            only_space = [one for one in text[colon + 1 :] if one != "\n"]
            if only_space:  # the expression gives back what it took, until there is a character for the result
                return only_space[-1]
    return None


def judge_says_equal(said: str | None) -> bool:
    return said is not None and said.strip().lower() == "yes"


def mgsm_number(text: str, word: str) -> str:
    if word not in text:
        return ""
    behind = text.split(word)[-1].replace(",", "")
    numbers: list[str] = []
    current = ""
    for one in behind + " ":
        if one.isdecimal() or (one == "." and current and "." not in current):
            current += one
        elif current:
            numbers.append(current)
            current = one if one.isdecimal() else ""
    return numbers[-1].rstrip(".") if numbers else ""


def mgsm_is_right(number: str, key: str) -> bool:
    if "." in number:
        while number.endswith("0"):
            number = number[:-1]
        number = number.removesuffix(".")
    return number == key
