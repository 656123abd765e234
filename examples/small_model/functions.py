"""Functions as a beginner writes them, each with examples that decide whether it was written again rightly."""


def sum_of_squares(numbers):
    """
    >>> sum_of_squares([1, 2, 3])
    14
    >>> sum_of_squares([])
    0
    >>> sum_of_squares([-4])
    16
    """
    total = 0
    for number in numbers:
        total += number * number
    return total


def count_vowels(text):
    """
    >>> count_vowels("banana")
    3
    >>> count_vowels("")
    0
    >>> count_vowels("Apple")
    2
    """
    return sum(letter in "aeiou" for letter in text.lower())


def is_palindrome(word):
    """
    >>> is_palindrome("level")
    True
    >>> is_palindrome("house")
    False
    >>> is_palindrome("")
    True
    """
    return word == word[::-1]


def fahrenheit(celsius):
    """
    >>> fahrenheit(0)
    32.0
    >>> fahrenheit(100)
    212.0
    >>> fahrenheit(-40)
    -40.0
    """
    return celsius * 9 / 5 + 32


def even_numbers(numbers):
    """
    >>> even_numbers([1, 2, 3, 4])
    [2, 4]
    >>> even_numbers([])
    []
    >>> even_numbers([7, 0])
    [0]
    """
    return [number for number in numbers if number % 2 == 0]


def factorial(number):
    """
    >>> factorial(0)
    1
    >>> factorial(5)
    120
    >>> factorial(1)
    1
    """
    result = 1
    for factor in range(2, number + 1):
        result *= factor
    return result


def longest_word(words):
    """
    >>> longest_word(["a", "tree", "or"])
    'tree'
    >>> longest_word(["one", "two"])
    'one'
    >>> longest_word(["x"])
    'x'
    """
    longest = words[0]
    for word in words:
        if len(word) > len(longest):
            longest = word
    return longest


def average(numbers):
    """
    >>> average([2, 4])
    3.0
    >>> average([5])
    5.0
    >>> average([1, 2, 3, 4])
    2.5
    """
    return sum(numbers) / len(numbers)


def reverse_words(sentence):
    """
    >>> reverse_words("one two three")
    'three two one'
    >>> reverse_words("word")
    'word'
    >>> reverse_words("")
    ''
    """
    return " ".join(reversed(sentence.split()))


def count_letters(text):
    """
    >>> count_letters("aab")
    {'a': 2, 'b': 1}
    >>> count_letters("")
    {}
    >>> count_letters("x")
    {'x': 1}
    """
    counts = {}
    for letter in text:
        counts[letter] = counts.get(letter, 0) + 1
    return counts


def is_prime(number):
    """
    >>> is_prime(7)
    True
    >>> is_prime(9)
    False
    >>> is_prime(1)
    False
    """
    if number < 2:
        return False
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def greatest_common_divisor(first, second):
    """
    >>> greatest_common_divisor(12, 18)
    6
    >>> greatest_common_divisor(7, 5)
    1
    >>> greatest_common_divisor(4, 0)
    4
    """
    while second:
        first, second = second, first % second
    return first
