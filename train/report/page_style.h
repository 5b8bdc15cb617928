// The style sheet and the script of a run's page.
#ifndef HM11_TRAIN_REPORT_PAGE_STYLE_H_
#define HM11_TRAIN_REPORT_PAGE_STYLE_H_

namespace hm11 {

inline constexpr char kPageStyle[] = R"css(
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#17202b;--soft:#566373;--rule:#e1e6eb;--good:#0a7d4f;--bad:#c2261d;
--heat:232,89,12;--b0:#dfe4ea;--b1:#1f6feb;--b2:#e8590c;--b3:#0b9b73;--b4:#8a3ffc;--b5:#d6336c;--b6:#a97f00;--b7:#0e8fa8}
@media screen and (prefers-color-scheme:dark){:root{--page:#0f141a;--card:#182029;--ink:#e8edf2;--soft:#9aa8b7;--rule:#2a3541;
--good:#3ecf8e;--bad:#ff7b72;--heat:255,140,60;--b0:#303c49;--b1:#6cb0ff;--b2:#ff9a57;--b3:#3fd0a4;--b4:#b794ff;--b5:#ff85ad;--b6:#e3c04a;--b7:#52cfe6}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1480px;margin:0 auto;padding:26px 20px 60px}
h1{font-size:25px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere;letter-spacing:-.01em}
h2{font-size:19px;margin:38px 0 4px;letter-spacing:-.01em}h3{font-size:15px;margin:22px 0 8px;overflow-wrap:anywhere}
h4{font-size:14px;margin:0 0 6px}p{margin:2px 0 10px;max-width:80ch;overflow-wrap:anywhere}.sub,section>p,figcaption small,caption{color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0 0;font-size:14px}a{color:var(--b1)}
:focus-visible{outline:2px solid var(--b1);outline-offset:2px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(145px,1fr));gap:12px;margin:18px 0 0}
.tile,.card,figure{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.tile{padding:11px 15px;min-width:0}.tile b{display:block;font-size:23px;line-height:1.25;font-weight:650;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.tile span{display:block;font-size:13px}.tile small{display:block;color:var(--soft);font-size:12px;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,390px),1fr));gap:14px;margin:12px 0}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr));gap:14px;margin:12px 0}
.card{padding:14px 16px;margin:12px 0;min-width:0}.cards>.card,.pairs>.card{margin:0}.card>h3:first-child{margin-top:0}
figure{margin:0;padding:12px 14px 10px;min-width:0}figcaption{font-weight:600;margin-bottom:4px}
figcaption small{display:block;font-weight:400;font-size:13px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:13px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg text.note{font-size:12px;paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg path{fill:none;stroke-linejoin:round}svg .grid{stroke:var(--rule)}svg .axis{stroke:var(--soft)}
svg .guide{stroke:var(--soft);stroke-dasharray:3 4;opacity:.7}svg .line{stroke-width:2}svg .raw{stroke-width:1;opacity:.28}
svg circle{stroke:var(--card);stroke-width:1.2}svg .hover{stroke:var(--soft)}
.s1{stroke:var(--b1)}.s2{stroke:var(--b2)}.s3{stroke:var(--b3)}.s4{stroke:var(--b4)}.s5{stroke:var(--b5)}.s6{stroke:var(--b6)}.s7{stroke:var(--b7)}
circle.s1{fill:var(--b1)}circle.s2{fill:var(--b2)}circle.s3{fill:var(--b3)}circle.s4{fill:var(--b4)}circle.s5{fill:var(--b5)}circle.s6{fill:var(--b6)}circle.s7{fill:var(--b7)}
.b0{background:var(--b0)}.b1{background:var(--b1);fill:var(--b1)}.b2{background:var(--b2);fill:var(--b2)}.b3{background:var(--b3);fill:var(--b3)}
.b4{background:var(--b4);fill:var(--b4)}.b5{background:var(--b5);fill:var(--b5)}.b6{background:var(--b6);fill:var(--b6)}.b7{background:var(--b7);fill:var(--b7)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:1px 14px;margin:0 0 6px;padding:0;font-size:13px;color:var(--soft)}
.legend li{overflow-wrap:anywhere;min-width:0}.legend b{color:var(--ink);font-variant-numeric:tabular-nums;font-weight:600}
.legend i,.stack li i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
fieldset{border:0;margin:10px 0 0;padding:0;display:flex;flex-wrap:wrap;gap:6px;align-items:center;font-size:14px}
fieldset legend{float:left;padding:0;margin-right:4px;color:var(--soft)}fieldset input{position:absolute;opacity:0}
fieldset label{border:1px solid var(--rule);background:var(--card);border-radius:999px;padding:2px 13px;cursor:pointer}
fieldset input:checked+label{background:var(--ink);color:var(--page);border-color:var(--ink)}fieldset input:focus-visible+label{outline:2px solid var(--b1);outline-offset:2px}
.by-time,.by-tokens,.by-steps{display:none}
section:has(#axis-time:checked) .by-time,section:has(#axis-tokens:checked) .by-tokens,section:has(#axis-steps:checked) .by-steps{display:block}
details{margin-top:6px}summary{cursor:pointer;font-size:13px;color:var(--soft)}details.card summary{font-size:15px;color:var(--ink);font-weight:600}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}
caption{text-align:left;font-size:13px;padding-bottom:3px}details caption{display:none}
.card>.scroll caption,.card>table caption{color:var(--ink);font-weight:600;font-size:15px}
th{font-weight:600;color:var(--soft);text-align:right;padding:3px 9px;vertical-align:bottom}thead th{border-bottom:1px solid var(--rule);font-size:12px}
tbody th{color:var(--ink);font-weight:400;text-align:left;vertical-align:top}td{text-align:right;padding:3px 9px;font-variant-numeric:tabular-nums;white-space:nowrap;vertical-align:top}
tr>:first-child{padding-left:0}tr>:last-child{padding-right:0}.plain tbody tr+tr>*{border-top:1px solid var(--rule)}
.text{text-align:left}td.text{white-space:normal;overflow-wrap:anywhere;min-width:9em}
.bars thead th,.documents thead th{min-width:4.3em}.bars tbody th,.plain tbody th{min-width:6.5em}.bars .bar{width:99%;min-width:40px}.bars th,.bars td{padding-left:5px;padding-right:5px}.bars tr>:first-child{padding-left:0}.bars tr>:last-child{padding-right:0}.bar i{display:block;height:11px;min-width:1px;border-radius:0 3px 3px 0;margin-top:4px}
.documents td{white-space:normal}.documents .words{text-align:left;overflow-wrap:anywhere;width:75%}
.swatch{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px}
.stack-bar{position:relative;display:flex;height:22px;border-radius:5px;background:var(--b0);margin-top:2px}.marked .stack-bar{margin-top:18px}
.stack-bar>i{height:100%;border-right:1px solid var(--card)}.stack-bar>i:first-child{border-radius:5px 0 0 5px}
.stack .mark{position:absolute;top:-5px;bottom:-5px;border-left:2px solid var(--ink)}
.stack .mark em{position:absolute;bottom:100%;right:0;font-style:normal;font-size:12px;white-space:nowrap;color:var(--soft)}
.stack ul{list-style:none;display:flex;flex-wrap:wrap;gap:2px 18px;margin:9px 0 0;padding:0;font-size:13px;color:var(--soft)}
.stack b{color:var(--ink);font-variant-numeric:tabular-nums;font-weight:600}
.sample{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;line-height:1.65;font-family:ui-serif,Georgia,"DejaVu Serif",serif}
.sample i{color:var(--soft)}.sample span,.heat span{border-radius:3px}.heat{font-size:13px;color:var(--soft)}.heat span{color:var(--ink);padding:1px 7px}
.h1{background:rgba(var(--heat),.1)}.h2{background:rgba(var(--heat),.19)}.h3{background:rgba(var(--heat),.29)}.h4{background:rgba(var(--heat),.4)}
.h5{background:rgba(var(--heat),.52)}.h6{background:rgba(var(--heat),.66)}
.bars .more>*{padding-top:0}.bars .more>.bar{padding-left:5px}.under p{font-size:13px;margin:8px 0 0}th small{display:block;color:var(--soft)}.plain th b,.plain td b{font-weight:600;color:var(--ink)}
.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}.unsure{color:var(--soft)}#missing ul{padding-left:20px;color:var(--soft)}
#tip{position:fixed;pointer-events:none;background:var(--ink);color:var(--page);border-radius:6px;padding:4px 9px;font-size:12px;white-space:pre;font-variant-numeric:tabular-nums;z-index:2}
@media(min-width:521px){.bars tbody th{min-width:9.6em}}
@media(min-width:1300px){.pairs{grid-template-columns:1fr 1fr}}
@media(max-width:520px){main{padding:20px 14px 40px}.card,figure{padding:12px}.bars .bar{min-width:26px}.bars thead th{min-width:3.6em}}
@media print{@page{margin:12mm}:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#000;--soft:#444;--rule:#ccc}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}body{font-size:12px}main{max-width:none;padding:0}nav,fieldset,summary,#tip{display:none}
.cards,.pairs{grid-template-columns:1fr 1fr;gap:10px}.tiles{grid-template-columns:repeat(3,1fr);gap:8px}h2{margin-top:22px}details caption{display:table-caption}
p,figure,.card,.tile,.stack,svg,tr{break-inside:avoid}details.card,#setup .card{break-inside:auto}h2,h3,h4,caption,thead,section>p{break-after:avoid}.scroll{overflow:visible}
details.card table{font-size:10px}details.card th,details.card td{padding-top:1px;padding-bottom:1px}td{white-space:normal}.cards .scroll table{font-size:11px}.cards th,.cards td{padding-left:3px;padding-right:3px}}
)css";

// Opens what is shut for a print. Reads the curve under the pointer off its own path, so that no number is in the
// page twice.
inline constexpr char kPageScript[] = R"js(
(()=>{addEventListener("beforeprint",()=>document.querySelectorAll("details:not([open])").forEach(d=>{d.open=true;d.dataset.shut=1}));
addEventListener("afterprint",()=>document.querySelectorAll("details[data-shut]").forEach(d=>{d.open=false;delete d.dataset.shut}));
const tip=document.createElement("div");tip.id="tip";tip.hidden=true;document.body.append(tip);
const clock=s=>{s=Math.round(s);const p=n=>String(n).padStart(2,"0");return s<3600?`${Math.floor(s/60)}:${p(s%60)}`:`${Math.floor(s/3600)}:${p(Math.floor(s/60)%60)}:${p(s%60)}`};
const short=v=>Math.abs(v)>=1000?Math.round(v).toLocaleString("en"):String(+v.toPrecision(4));
for(const svg of document.querySelectorAll("svg[data-x]")){const x=svg.dataset.x.split(" ").map(Number),y=svg.dataset.y.split(" ").map(Number);
const lines=[...svg.querySelectorAll("path.line")].map(p=>({label:p.dataset.label,points:p.getAttribute("d").slice(1).split("L").map(s=>s.split(" ").map(Number))}));
if(!lines.length)continue;const rule=document.createElementNS(svg.namespaceURI,"path");rule.setAttribute("class","hover");svg.append(rule);
svg.addEventListener("pointermove",e=>{const box=svg.getBoundingClientRect(),at=(e.clientX-box.left)*440/box.width;
const near=lines.map(l=>({label:l.label,point:l.points.reduce((a,b)=>Math.abs(b[0]-at)<Math.abs(a[0]-at)?b:a)}));
const px=near.reduce((a,b)=>Math.abs(b.point[0]-at)<Math.abs(a.point[0]-at)?b:a).point[0];
rule.setAttribute("d",`M${px} ${y[3]}L${px} ${y[2]}`);let v=x[0]+(px-x[2])/(x[3]-x[2])*(x[1]-x[0]);
v=svg.dataset.form==="seconds"?clock(v):svg.dataset.form==="log2"?short(2**v):short(Math.round(v));
tip.textContent=v+near.map(n=>"\n"+(lines.length>1?n.label+"  ":"")+short(y[0]+(n.point[1]-y[2])/(y[3]-y[2])*(y[1]-y[0]))).join("");
tip.hidden=false;const w=tip.offsetWidth;tip.style.left=Math.max(4,Math.min(e.clientX+14,innerWidth-w-4))+"px";tip.style.top=Math.max(4,e.clientY-tip.offsetHeight-10)+"px"});
svg.addEventListener("pointerleave",()=>{tip.hidden=true;rule.setAttribute("d","")})}})();
)js";

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_PAGE_STYLE_H_
