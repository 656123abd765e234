"""The request for an answer in each language of MGSM, in our own words.

Each asks for the solution in steps and for a last line with the language's word for "answer", a colon and a whole
number. `{question}` follows after an empty line.
"""

from __future__ import annotations

LATIN_SCRIPT = ("de", "en", "es", "fr", "sw")
REQUESTS = {
    "bn": 'নিচের অঙ্কটি ধাপে ধাপে সমাধান করো। শেষ লাইনে লেখো "উত্তর:" এবং তার পরে শুধু একটি পূর্ণসংখ্যা।',
    "de": 'Löse die folgende Aufgabe Schritt für Schritt. Die letzte Zeile lautet "Antwort:", gefolgt von einer ganzen '
    "Zahl und sonst nichts.",
    "en": 'Work through the following problem in steps. The last line reads "Answer:", followed by a whole number and '
    "nothing else.",
    "es": 'Resuelve el siguiente problema por pasos. La última línea dice "Respuesta:", seguida de un número entero y '
    "nada más.",
    "fr": "Résous le problème suivant par étapes. La dernière ligne contient «Réponse:», suivi d'un nombre entier et "
    "de rien d'autre.",
    "ja": "次の問題を順を追って解いてください。最後の行は「答え:」で始め、その後に整数だけを書いてください。",
    "ru": 'Решите следующую задачу по шагам. В последней строке напишите "Ответ:" и после него только целое число.',
    "sw": 'Tatua swali lifuatalo hatua kwa hatua. Mstari wa mwisho uwe "Jibu:" ukifuatwa na namba nzima tu.',
    "te": 'కింది లెక్కను దశలవారీగా చేయండి. చివరి వరుసలో "సమాధానం:" అని రాసి, దాని తర్వాత పూర్ణాంకం మాత్రమే రాయండి.',
    "th": 'จงแก้โจทย์ต่อไปนี้ทีละขั้น บรรทัดสุดท้ายให้เขียน "คำตอบ:" ตามด้วยจำนวนเต็มเท่านั้น',
    "zh": "请一步一步解答下面的题目。最后一行写“答案:”，后面只写一个整数。",
}
