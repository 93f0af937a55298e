"""The report's style sheet: light and dark, wide and narrow, colours that colour-blind readers can tell apart.

Place on the path of data: step 8, inside the report.
"""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --panel: #f5f6f5; --ink: #16191d; --soft: #59616b; --line: #e1e4e6; --strong-line: #16191d;
  --blue: #0b62a8; --blue-faint: #0b62a82e; --heat: #8fc1ea; --banned: #c2500a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --panel: #1c2024; --ink: #e9ebed; --soft: #a0a9b2; --line: #2f353b; --strong-line: #8b949d;
    --blue: #63b0f0; --blue-faint: #63b0f03d; --heat: #1f5684; --banned: #ff8a3d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); font-variant-numeric: tabular-nums;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 56px 32px 72px; }
h1 { font-size: clamp(28px, 4vw, 42px); line-height: 1.14; letter-spacing: -.022em; font-weight: 650; margin: 0 0 18px;
  max-width: 22em; text-wrap: balance; }
h2 { font-size: 22px; line-height: 1.25; letter-spacing: -.012em; font-weight: 650; margin: 0 0 8px; }
h3 { font-size: 15px; font-weight: 600; margin: 0 0 6px; }
p { margin: 0 0 14px; max-width: 68ch; text-wrap: pretty; }
.eyebrow { color: var(--soft); font-size: 14px; margin: 0 0 14px; }
.lead { font-size: 18px; color: var(--soft); }
.soft, .note, .ci, .n { color: var(--soft); }
section { margin-top: 60px; }
section > p { color: var(--soft); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

.strip { display: grid; grid-template-columns: repeat(4, 1fr); margin: 36px 0 0; padding: 0;
  border-top: 2px solid var(--strong-line); border-bottom: 1px solid var(--line); }
.strip > div { padding: 18px 22px 20px; border-left: 1px solid var(--line); }
.strip > div:first-child { border-left: 0; padding-left: 0; }
.strip dt { font-weight: 600; }
.strip dd { margin: 0; font-size: 13.5px; line-height: 1.45; color: var(--soft); }
.strip .meaning { margin-top: 8px; color: var(--ink); }
.strip .figure { font-size: 44px; line-height: 1.15; letter-spacing: -.03em; font-weight: 650; color: var(--ink);
  white-space: nowrap; margin: 2px 0 8px; }
.strip .figure small { font-size: 22px; letter-spacing: 0; font-weight: 500; color: var(--soft); }

.bar { display: block; position: relative; height: 6px; border-radius: 3px; background: var(--line); margin: 5px 0; }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: 3px; background: var(--blue); opacity: .42;
  min-width: 3px; }
.bar b { position: absolute; top: -2px; width: 3px; height: 10px; margin-left: -1.5px; border-radius: 1.5px;
  background: var(--blue); }

.scroll { overflow-x: auto; margin: 0 -32px; padding: 0 32px 8px; }
.sheet { border-collapse: separate; border-spacing: 11px; margin: 8px -11px 0; }
.sheet th { text-align: left; font-weight: 400; font-size: 13px; line-height: 1.32; }
.sheet thead th { vertical-align: bottom; padding-bottom: 4px; overflow-wrap: anywhere; }
.sheet thead .note { display: block; }
.sheet tbody th { min-width: 158px; max-width: 176px; padding-right: 14px; vertical-align: middle; }
.sheet tbody .label { display: block; font-size: 15px; font-weight: 600; line-height: 1.35; }
.sheet .group > * { padding-top: 16px; }
.sheet td { padding: 0; }
.sheet img { display: block; width: 106px; height: auto; border-radius: 3px; box-shadow: 0 0 0 1px var(--line); }
.sheet .banned img { outline: 2.5px solid var(--banned); outline-offset: 2px; }
.key { display: inline-block; width: 15px; height: 15px; border: 2.5px solid var(--banned); border-radius: 4px;
  vertical-align: -2px; margin-right: 3px; }

.rates { width: 100%; border-collapse: collapse; margin-top: 18px; font-size: 15px; line-height: 1.4; }
.rates th { text-align: left; font-weight: 600; vertical-align: top; padding: 12px 18px 12px 0; }
.rates thead th { border-bottom: 2px solid var(--strong-line); vertical-align: top; padding: 0 18px 8px 0; }
.rates td { border-bottom: 1px solid var(--line); padding: 12px 18px 12px 0; vertical-align: top; white-space: nowrap;
  min-width: 118px; }
.rates tbody th { border-bottom: 1px solid var(--line); min-width: 168px; max-width: 230px; }
.rates td:last-child, .rates thead th:last-child { padding-right: 0; }
.rates .note { display: block; font-weight: 400; font-size: 13.5px; line-height: 1.35; }
.rates .ci, .rates .n { font-size: 13px; display: block; }
.rates .ours > th, .rates .ours > td { background: var(--panel); }
.rates .ours > th { box-shadow: -12px 0 var(--panel); }
.rates .ours > td:last-child { box-shadow: 12px 0 var(--panel); }
.value { font-weight: 500; font-size: 16px; }
.best .value { font-weight: 700; }
.chip { font-size: 11.5px; font-weight: 600; line-height: 1; color: var(--blue); border: 1px solid currentColor;
  border-radius: 3px; padding: 1px 4px; margin-left: 6px; vertical-align: 1.5px; }
.heat td { padding-left: 12px; border-left: 3px solid var(--paper); border-bottom: 3px solid var(--paper);
  background: color-mix(in srgb, var(--heat) var(--v), var(--panel)); }
.heat td .ci, .heat td .n { color: inherit; opacity: .82; display: inline; margin-right: 8px; }
.heat.stack td { min-width: 0; padding: 9px 6px 9px 10px; } .heat.stack thead th { padding-right: 4px; }
.heat.stack thead th:not(:first-child) { padding-left: 13px; }
.heat.stack tbody th { min-width: 132px; padding-right: 10px; }
.heat.stack td .ci, .heat.stack td .n { display: block; font-size: 12px; margin: 0; }
.heat td:last-child { padding-right: 12px; }
.heat thead th { padding-left: 15px; }
.heat thead th:first-child { padding-left: 0; }

.absent .value, .published { color: var(--soft); font-weight: 400; }
.absent .value { font-size: 14px; }
.published { display: block; font-size: 13px; }
.rates .warning, .warning { color: var(--banned); }
.centre::before { content: ""; position: absolute; left: 50%; top: -3px; bottom: -3px; width: 1px;
  background: var(--soft); }
h3 { margin-top: 30px; } h3 .note { font-weight: 400; margin-left: 8px; }
section > h3:first-of-type { margin-top: 18px; }
.rates caption { text-align: left; font-size: 14px; color: var(--soft); padding: 0 0 8px; }
.dense { max-width: calc(240px + var(--columns) * 290px); }
.dense .ci, .dense .n { display: inline; margin-right: 10px; }
.two-lines figcaption span { display: block; }
ul.plain { margin: 0 0 14px; padding-left: 20px; max-width: 72ch; } ul.plain li { margin-bottom: 6px; }
ul.notes { font-size: 13.5px; color: var(--soft); margin: 10px 0 0; } ul.notes li { margin-bottom: 2px; }
header ul.plain { margin-top: 16px; }

.reveal { accent-color: var(--blue); width: 16px; height: 16px; margin: 0 8px 0 0; vertical-align: -2px; }
.reveal-all { font-size: 14px; color: var(--soft); cursor: pointer; }
.veil { position: relative; display: block; overflow: hidden; border-radius: 3px; cursor: pointer; }
.veil:not(.words) { width: 106px; box-shadow: 0 0 0 1px var(--line); }
.veil input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: pointer;
  z-index: 1; }
.veil img { filter: blur(14px) saturate(.6); box-shadow: none; }
.veil .caption { filter: blur(5px); user-select: none; }
.veil > span:not(.caption) { position: absolute; left: 50%; top: 50%; transform: translate(-50%, -50%);
  padding: 1px 8px;
  border-radius: 9px; font-size: 12px; background: var(--paper); color: var(--ink); opacity: .86; }
.veil input:checked ~ img, .veil input:checked ~ .caption,
.reveal:checked ~ .scroll .veil img, .reveal:checked ~ .scroll .veil .caption { filter: none; user-select: auto; }
.veil input:checked ~ span:not(.caption), .reveal:checked ~ .scroll .veil > span:not(.caption) { display: none; }
.veil:has(input:focus-visible) { outline: 2px solid var(--blue); outline-offset: 2px; }
.sheet .banned .veil { outline: 2.5px solid var(--banned); outline-offset: 2px; }
.sheet .banned .veil img { outline: 0; }
.sheet .absent span { display: grid; place-items: center; width: 106px; aspect-ratio: 1; font-size: 12px;
  color: var(--soft); border: 1px dashed var(--line); border-radius: 3px; }

.duel { margin: 20px 0 0; max-width: 860px; }
.duel-names { display: grid; grid-template-columns: 1fr auto 1fr; gap: 14px; align-items: baseline; font-weight: 600; }
.duel-names span:nth-child(2) { font-weight: 400; color: var(--soft); font-size: 14px; }
.duel-names span:nth-child(3) { text-align: right; }
.wins { display: flex; height: 14px; border-radius: 3px; overflow: hidden; margin: 6px 0; background: var(--line); }
.wins i { display: block; } .wins .l { background: var(--blue); } .wins .r { background: var(--soft); }
.duel .note { font-size: 13.5px; margin: 0; max-width: none; }

.two { display: grid; grid-template-columns: minmax(0, 1.25fr) minmax(0, 1fr); gap: 8px 56px; align-items: start; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 28px 56px;
  margin-top: 18px; }
.chart { display: block; width: 100%; max-width: 500px; height: auto; overflow: visible; }
.chart .grid { stroke: var(--line); } .chart .axis { stroke: var(--soft); fill: none; }
.chart .tick { fill: var(--soft); font-size: 11px; }
.chart .line { fill: none; stroke: var(--blue); stroke-width: 2.2; stroke-linejoin: round; }
.chart .raw { fill: none; stroke: var(--blue-faint); stroke-width: 1; }
.chart .whisker { fill: none; stroke: var(--blue); stroke-width: 1.4; }
.chart .dot { fill: var(--blue); stroke: var(--paper); stroke-width: 1.5; }
.chart .other .dot { fill: var(--soft); } .chart .other .whisker { stroke: var(--soft); }
.chart .published .dot { fill: var(--paper); stroke: var(--banned); stroke-width: 1.6; }
.chart .published .line { stroke: var(--banned); stroke-width: 1.3; stroke-dasharray: 4 4; }
.chart text.tick { font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: 14px; color: var(--soft); margin: 0 0 4px;
  padding: 0; list-style: none; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px;
  background: var(--soft); }
.legend .ours i { background: var(--blue); }
.legend .published i { background: none; border: 2px solid var(--banned); }
.legend .published { display: inline; font-size: inherit; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: 15px; margin-bottom: 4px; }
figcaption span { font-weight: 400; color: var(--soft); }

.parts { display: grid; grid-template-columns: max-content 1fr max-content; gap: 9px 18px; align-items: center;
  margin: 16px 0 0; max-width: 760px; }
.parts dt, .parts dd { margin: 0; } .parts dd:nth-of-type(2n) { text-align: right; }
.parts .length { height: 10px; border-radius: 2px; background: var(--blue); min-width: 2px; }
.parts .total { font-weight: 600; border-top: 1px solid var(--line); padding-top: 8px; align-self: stretch; }

details { border-top: 1px solid var(--line); } details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; padding: 13px 0; }
summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
pre { margin: 0 0 16px; padding: 14px 16px; background: var(--panel); border-radius: 5px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.flat { border-collapse: collapse; font-size: 14px; margin-bottom: 16px; }
.flat th { text-align: left; font-weight: 600; } .flat td, .flat th { padding: 5px 22px 5px 0; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
.flat .number { text-align: right; }

@media (max-width: 760px) {
  main { padding: 32px 18px 48px; }
  section { margin-top: 44px; }
  .lead { font-size: 16.5px; }
  .strip { grid-template-columns: 1fr 1fr; }
  .strip > div { padding: 14px 0 14px 16px; }
  .strip > div:nth-child(odd) { border-left: 0; padding-left: 0; padding-right: 16px; }
  .strip > div:nth-child(n+3) { border-top: 1px solid var(--line); }
  .strip .figure { font-size: 34px; } .strip .figure small { font-size: 18px; }
  .scroll { margin: 0 -18px; padding: 0 18px 8px 0; }
  .scroll:has(.flat) { padding-left: 18px; }
  .sheet { margin-left: 0; border-spacing: 9px; }
  .sheet img, .veil:not(.words), .sheet .absent span { width: 84px; }
  .sheet th { font-size: 11.5px; }
  .sheet thead td, .sheet tbody th { position: sticky; left: 0; background: var(--paper); z-index: 1; }
  .sheet tbody th { min-width: 104px; max-width: 104px; padding: 0 6px 0 14px; overflow-wrap: anywhere; }
  .sheet tbody .label { font-size: 13px; }
  .two { grid-template-columns: 1fr; }
  .stack thead { display: none; }
  .stack tbody tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 20px; padding: 12px 0;
    border-bottom: 1px solid var(--line); }
  .stack tbody th { grid-column: 1 / -1; max-width: none; border: 0; padding: 0 0 4px; }
  .stack td { border: 0; padding: 6px 0; min-width: 0; }
  .stack td::before { content: attr(data-label); display: block; font-size: 13px; color: var(--soft); }
  .rates .ours > th, .rates .ours > td { background: none; box-shadow: none; }
  .stack .ci, .stack .n { display: inline-block; margin-right: 10px; }
  .stack tbody tr.ours { background: var(--panel); margin: 0 -18px; padding: 12px 18px; }
  .heat { font-size: 13.5px; } .heat tbody th, .heat td { padding: 8px 3px 8px 7px; min-width: 0;
    white-space: normal; }
  .heat tbody th { padding-left: 0; min-width: 84px; font-size: 13px; }
  .heat thead th { padding-left: 10px; padding-right: 0; }
  .heat td .ci, .heat td .n { display: block; font-size: 11px; margin: 0; }
  .heat .value { font-size: 14.5px; }
  .heat.stack td { padding: 8px 10px; border: 0; } .heat.stack tbody tr { gap: 3px; }
  h3 .note { display: block; margin-left: 0; }
  .heat.stack .value { display: block; } .heat.stack tbody th { font-size: 15px; }
  .heat.stack td .ci, .heat.stack td .n { display: inline; font-size: 12px; }
  .heat.stack td::before { color: inherit; opacity: .82; }
  .duel-names { grid-template-columns: 1fr 1fr; gap: 2px 14px; }
  .duel-names span:nth-child(2) { grid-column: 1 / -1; grid-row: 2; }
  .parts { gap: 9px 12px; font-size: 14.5px; }
}
@media print { details > * { display: block; } .scroll { overflow: visible; } }
"""
