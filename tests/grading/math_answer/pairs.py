r"""Pairs of key and answer in the styles of MATH, GSM8K, AMC and AIME, and what a careful reader says of them.

One pair a line: `key || answer`. `EQUAL` and `DIFFERENT` are what a mathematician says at once; `BY_CONVENTION` is what
two teachers would not agree on, so that no verdict but `undecided` is wrong by itself.
"""

from __future__ import annotations

EQUAL = r"""
42 || 42.0
42 || 42.
42 || $42$
42 || \boxed{42}
42 || **42**
-5 || −5
1234 || 1,234
1,234,567 || 1234567
10000 || 10{,}000
10000 || 10\,000
12,500 || $12,500
\$18 || 18
18 || \$18.00
18 || 18 dollars
5 || 5 apples
36 || 36\text{ cm}^2
36\text{ square inches} || 36
10 || 10\text{ units}
70 || 70\%
70\% || 70\%
25\% || 0.25
0.5 || \frac{1}{2}
0.5 || .5
\frac{1}{2} || 1/2
\frac{1}{2} || \frac12
\frac{1}{2} || \dfrac{1}{2}
\frac{1}{2} || \tfrac{2}{4}
\frac{1}{2} || ½
-\frac{1}{2} || \frac{-1}{2}
-\frac{3}{4} || -3/4
\frac{7}{3} || 2\frac{1}{3}
2\frac12 || \frac52
\frac{3}{10} || 0.3
\frac{1}{3} || \frac{ 1 }{ 3 }
30^\circ || 30
30^{\circ} || 30°
60 || 60 degrees
\sqrt{2} || \sqrt2
2\sqrt{3} || \sqrt{12}
\frac{\sqrt{2}}{2} || \frac{1}{\sqrt{2}}
\frac{3\sqrt{3}}{2} || \frac32\sqrt{3}
\sqrt[3]{2} || 2^{1/3}
3\sqrt{5} || 3√5
2 + \sqrt{3} || \sqrt{3}+2
\frac{1+\sqrt{5}}{2} || (1+\sqrt{5})/2
\sqrt{3+2\sqrt{2}} || 1+\sqrt{2}
\pi || π
\frac{\pi}{4} || \pi/4
4\pi || 4 \cdot \pi
12\pi || 12\pi\text{ cm}^3
\frac{4\pi}{3} || \frac{4}{3}\pi
2^{10} || 1024
10^{3} || 1000
3^{-2} || \frac19
5! || 120
\binom{6}{2} || 15
2 \times 3 || 6
1.5 \times 10^{3} || 1500
x^2+2x+1 || (x+1)^2
x^2 + 2x + 1 || 1+2x+x^2
(x-2)(x+3) || x^2+x-6
2x+3 || 3 + 2x
-x || -1 \cdot x
\frac{x}{2} || \frac12 x
\frac{x^2-1}{x-1} || x+1
3x^2y || 3yx^2
a^{2}b || ba^2
e^{2x} || e^{x} e^{x}
\ln 8 || 3\ln 2
\log_2 8 || 3
\sin^2 x || (\sin x)^2
\sin 2x || 2\sin x\cos x
\frac{\sin x}{\cos x} || \tan x
1+i || i+1
i^2 || -1
(1+i)^2 || 2i
3-4i || -4i+3
\frac{1}{i} || -i
x = 5 || 5
5 || x=5
x=5 || x = 5
y = 2x+3 || y=3+2x
f(x)=x^2 || x^2
y=2x+3 || 2x - y + 3 = 0
(1,2) || (1, 2)
(1,2) || \left(1,2\right)
\left(\frac12, 3\right) || (0.5, 3)
(3,\frac{\pi}{2}) || (3, \pi/2)
(1,2,3) || (1, 2,3)
(x,y)=(1,2) || (1,2)
[0,1) || \left[0,1\right)
(-\infty, 3] || (-∞,3]
x \le 3 || (-\infty,3]
x>2 || (2,\infty)
x > 2 || 2 < x
1<x<3 || (1,3)
x \in [1,3] || [1,3]
(-\infty,0)\cup(1,\infty) || (1,\infty) \cup (-\infty,0)
(-2,3) \cup (4,5] || (-2,3)∪(4,5]
\{1,2,3\} || \{3, 2, 1\}
\{1,2\} || \{1, 1, 2\}
1,2 || 2,1
1, 2 || 1 and 2
1,-2 || x=1 or x=-2
2, 3 || \{2,3\}
\pm 3 || 3, -3
2 \pm \sqrt{3} || 2-\sqrt{3}, 2+\sqrt{3}
\begin{pmatrix}1&2\\3&4\end{pmatrix} || \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}
\begin{pmatrix} 1/2 \\ 3 \end{pmatrix} || \begin{pmatrix} 0.5 \\ 3 \end{pmatrix}
\text{Evelyn} || Evelyn
\text{Monday} || monday
\text{(C)} || C
\text{B} || (B)
\text{even} || even
\text{No} || no
\text{June 20} || June 20
\text{12 hours} || 12
\$32,\!348 || 32348
11,\! 111,\! 111 || 11111111
\mathrm{e}^2 || e^2
\operatorname{sin} x || \sin(x)
\sqrt[3]{1-\sqrt{2}} || -\sqrt[3]{\sqrt{2}-1}
\frac{9}{7} || 1\frac{2}{7}
\left( -\frac{3}{2}, 1 \right] || (-1.5, 1]
6 + 9i || 9i+6
\frac{270}{7}\text{ degrees} || \frac{270}7
(6,31,-1) || (6, 31, -1)
.35625 || 0.35625
2k+2 || 2(k+1)
1010_2 || 1010_{2}
3:2 || 3 : 2
\infty || ∞
\emptyset || \varnothing
0 || 0.00
007 || 7
\frac{1}{99} || \frac{100}{9900}
\frac{a}{b} || a/b
|x| || \left|x\right|
x^{10} || x^10
\frac{1}{x}+\frac{1}{y} || \frac{x+y}{xy}
\sqrt{50}-\sqrt{8} || 3\sqrt2
6 || 1+2+3
|x| || \sqrt{x^2}
"""

DIFFERENT = r"""
42 || 43
42 || -42
1000000 || 1000001
\frac{1}{2} || \frac{1}{3}
\frac{1}{3} || 0.33
0.5 || 0.05
1234 || 12.34
1,234 || 1,235
\sqrt{2} || \sqrt{3}
2\sqrt{3} || 3\sqrt{2}
\sqrt{2} || 1.4
\pi || 3.14
\pi || \frac{22}{7}
2\pi || \pi
4\pi || 4
x+1 || x-1
x^2 || x
2x || 2y
(x+1)^2 || x^2+1
\frac{x}{y} || \frac{y}{x}
1+i || 1-i
i^2 || 1
e^x || e^{-x}
\sin x || \cos x
(1,2) || (2,1)
(1,2) || (1,3)
(1,2) || (1,2,3)
[0,1] || [0,2]
(1,2) || [1,2]
[0,1) || [0,1]
(-\infty,3] || (-\infty,3)
x>2 || x<2
x>2 || x \ge 2
\{1,2\} || \{1,2,3\}
1,2 || 1,3
1,2 || 1
\pm 3 || 3
\begin{pmatrix}1&2\\3&4\end{pmatrix} || \begin{pmatrix}1&2\\3&5\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} || \begin{pmatrix}2\\1\end{pmatrix}
y=2x+3 || y=2x-3
\text{Evelyn} || Briana
\text{even} || odd
\text{June 20} || June 21
\text{(A)} || (B)
5 || \text{five apples and a pear}
70\% || 7\%
25\% || 0.025
5 || I do not know
2^{10} || 2^{11}
2\frac12 || \frac12
1 || 0.999
0 || \frac{1}{1000000000}
10^{10} || 10^{10}+1
\frac{1}{3} || 3
12 || 21
100 || 10
-\frac{1}{2} || \frac{1}{2}
3 || 3x
\infty || -\infty
"""

BY_CONVENTION = r"""
1010_2 || 1010
1010_2 || 10
(1,2) || 1,2
3:2 || \frac{3}{2}
\frac13 || 0.333333
\sqrt{2} || 1.414214
\begin{pmatrix}1\\2\end{pmatrix} || (1,2)
x=5 || n=5
5\text{ cm} || 5\text{ m}
\sqrt{xy} || \sqrt{x}\sqrt{y}
3,5 || 3.5
5 || 5 or 6
0.1 || 0.1000001
1/2x || \frac{1}{2x}
\log 100 || 2
5 || 5 million
5 || 5\text{ or more}
\frac13 || 0.333...
\frac13 || x = \frac13 \approx 0.333
\frac{\pi}{6} || 30^\circ
"""


def pairs(table: str) -> list[tuple[str, str]]:
    """(key, answer) of every line."""
    split = (line.split(" || ") for line in table.strip().splitlines())
    return [(key, answer) for key, answer in split]
