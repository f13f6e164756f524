"""The report's style sheet: light and dark, from a phone's width to a wide screen."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #16191d; --muted: #59626d; --line: #dde1e6;
  --good: #00694e; --good-soft: #e3f3ed; --warn: #8a4200; --warn-soft: #fdf0e2;
  --open: #3c4654; --open-soft: #e9edf2;
  --series-0: #7c8590; --series-1: #d98a00; --series-2: #0072b2;
  --series-3: #009e73; --series-4: #cc79a7; --series-5: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2126; --ink: #e9ecef; --muted: #a3adb8; --line: #343b43;
    --good: #6fd6b3; --good-soft: #17342b; --warn: #ffb870; --warn-soft: #38280f;
    --open: #c3ccd6; --open-soft: #2a3038;
    --series-0: #9aa4af; --series-1: #f0a824; --series-2: #56b4e9;
    --series-3: #2fc79b; --series-4: #dd9bc2; --series-5: #f08a4b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main, header { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 30px; }
header p { margin: 4px 0 0; color: var(--muted); }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 10px; max-width: 78ch; }
.note { color: var(--muted); font-size: .9rem; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
}
.verdict { margin-top: 20px; border-left: 6px solid var(--open); }
.verdict.winner { border-left-color: var(--good); }
.verdict .headline { font-size: 1.3rem; font-weight: 650; margin-bottom: 8px; line-height: 1.35; }
.verdict ul { margin: 0; padding-left: 20px; max-width: 88ch; }
.verdict .warnings { margin-top: 14px; padding: 10px 14px; border-radius: 8px;
  background: var(--warn-soft); }
.verdict .warnings strong { color: var(--warn); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); font-size: .9rem; padding-bottom: 10px; }
th, td { text-align: left; padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-size: .95rem; }
tbody th { font-weight: 550; min-width: 150px; }
tbody th small { display: block; color: var(--muted); font-weight: 400; font-size: .8rem;
  max-width: 34ch; }
td b { font-weight: 650; }
td small, td .interval { color: var(--muted); white-space: nowrap; }
td small { display: block; font-size: .8rem; }
.grid {
  display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
}
figure { margin: 0; }
figcaption { font-size: .88rem; color: var(--muted); margin-top: 8px; }
figure svg { width: 100%; height: auto; display: block; max-width: 620px; margin: 0 auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.swatch {
  display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .4em;
}
.example { margin-bottom: 16px; }
.prompt { font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; margin-bottom: 12px; }
.answers {
  display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr));
}
.answer { border-top: 4px solid var(--line); padding-top: 8px; min-width: 0; }
.answer .text {
  white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0; unicode-bidi: isolate;
}
.answer .score {
  font-variant-numeric: tabular-nums; color: var(--muted); font-size: .9rem; margin: 0;
}
.answer .score b { color: var(--ink); }
.flags {
  list-style: none; padding: 0; margin: 6px 0 0; display: flex; flex-wrap: wrap; gap: 6px;
}
.flags li { font-size: .8rem; padding: 1px 8px; border-radius: 9px; background: var(--warn-soft);
  color: var(--warn); }
.empty { color: var(--muted); font-style: italic; }
summary { cursor: pointer; margin: 4px 0 16px; font-weight: 550; }
dl {
  margin: 0; display: grid; grid-template-columns: minmax(130px, max-content) 1fr;
  gap: 5px 18px;
}
dt { color: var(--muted); overflow-wrap: anywhere; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
dd dl { font-size: .93em; }
footer { height: 50px; }
@media (max-width: 560px) {
  body { font-size: 15px; }
  main, header { padding-left: 12px; padding-right: 12px; }
  .card { padding: 14px; }
  h1 { font-size: 1.35rem; }
  .verdict .headline { font-size: 1.12rem; }
  th, td { padding-right: 8px; }
  tbody th { min-width: 84px; font-size: .82rem; }
  tbody th small { display: none; }
  td .interval { display: block; font-size: .76rem; white-space: normal; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 6px; padding-left: 10px; }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
