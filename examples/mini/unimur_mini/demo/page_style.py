"""The style sheet of the demo's page: light and dark by the reader's preference, two columns or one by width."""

STYLE = """
:root{--ground:#f4f3ef;--card:#fff;--ink:#1d1f23;--soft:#666b75;--line:#e3e1da;--accent:#3f51b5;--user:#3f51b5;
--user-ink:#fff;--other:#eeede8;--answer:#e8ecfb;--answer-line:#b9c3ee;--track:#e9e7e0}
@media (prefers-color-scheme:dark){:root{--ground:#15171b;--card:#1e2127;--ink:#e9e9ea;--soft:#9aa1ad;--line:#2d3139;
--accent:#8fa0ff;--user:#4557c4;--user-ink:#fff;--other:#2b2f37;--answer:#262d4a;--answer-line:#414f8f;--track:#31363f}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Noto Sans",sans-serif,"Noto Color Emoji";-webkit-text-size-adjust:100%}
header,main,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:48px;padding-bottom:20px}
h1{font-size:clamp(1.6rem,4.5vw,2.4rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 10px;text-wrap:balance}
header p{margin:0;max-width:76ch;font-size:1.06rem}
header .facts{margin-top:6px;color:var(--soft);font-size:.92rem}
article{background:var(--card);border:1px solid var(--line);border-radius:16px;padding:22px 24px 24px;margin:0 0 22px}
h2{display:flex;align-items:baseline;gap:12px;font-size:1.25rem;line-height:1.25;margin:0 0 18px;letter-spacing:-.01em}
.count{color:var(--soft);font-weight:500;font-variant-numeric:tabular-nums}
h3{font-size:.78rem;letter-spacing:.07em;text-transform:uppercase;color:var(--soft);margin:0 0 8px;font-weight:600}
.columns{display:grid;grid-template-columns:minmax(0,5fr) minmax(0,6fr);gap:32px}
section{min-width:0}
ol{list-style:none;margin:0;padding:0}
.chat{display:flex;flex-direction:column;gap:10px}
.chat li{display:flex;flex-direction:column;max-width:88%;align-items:flex-start}
.chat .user{align-self:flex-end;align-items:flex-end}
.who{font-size:.72rem;color:var(--soft);margin:0 10px 2px}
.bubble{background:var(--other);border-radius:18px 18px 18px 5px;padding:9px 14px;overflow-wrap:anywhere;min-width:0;
max-width:100%}
.user .bubble{background:var(--user);color:var(--user-ink);border-radius:18px 18px 5px 18px}
.answer{margin-top:4px}
.answer .bubble{background:var(--answer);border:1px solid var(--answer-line)}
.bubble p{margin:0;white-space:pre-line}
.bubble img{display:block;width:132px;height:132px;object-fit:contain;background:#fff;border-radius:11px;padding:5px;
margin:7px 0 4px}
.replies{margin:0 0 22px}
.replies li{display:grid;grid-template-columns:minmax(0,1fr) 118px;gap:14px;align-items:center;padding:7px 0;
border-bottom:1px solid var(--line)}
.replies li:last-child{border-bottom:0}
.replies li:first-child .text{font-weight:600}
.text{overflow-wrap:anywhere}
.score{display:flex;align-items:center;gap:8px}
.bar{flex:1;height:6px;border-radius:3px;background:var(--track);overflow:hidden}
.bar i{display:block;height:100%;border-radius:3px;background:var(--accent)}
.number{font-size:.8rem;color:var(--soft);font-variant-numeric:tabular-nums}
.images{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:14px}
figure{margin:0}
.tile{background:#fff;border:1px solid var(--line);border-radius:12px;aspect-ratio:1;padding:8px;margin-bottom:7px}
.images li:first-child .tile{border-color:var(--accent);box-shadow:0 0 0 1px var(--accent)}
.tile img{display:block;width:100%;height:100%;object-fit:contain}
.title{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2;overflow:hidden;font-size:.88rem;
line-height:1.3;overflow-wrap:anywhere;margin-bottom:3px}
.credit{display:block;font-size:.72rem;line-height:1.35;color:var(--soft);margin-top:3px;overflow-wrap:anywhere}
footer{padding-top:6px;padding-bottom:56px;color:var(--soft);font-size:.84rem;overflow-wrap:anywhere}
footer ul{margin:8px 0 0;padding-left:18px}
@media (max-width:860px){.columns{grid-template-columns:minmax(0,1fr);gap:24px}}
@media (max-width:560px){header,main,footer{padding-left:12px;padding-right:12px}header{padding-top:28px}
article{padding:16px 14px 18px;border-radius:13px}.images{grid-template-columns:repeat(2,minmax(0,1fr))}
.replies li{grid-template-columns:minmax(0,1fr) 92px;gap:10px}}
@media print{body{background:#fff}article{break-inside:avoid}}
"""
