"""Colours and spacing of the page: near-black, because the microscope room is dark."""

INK = "#e8edf2"
FAINT = "#93a0ad"
LINE = "#27313a"
BAR = "#4f9dff"
FIT = "#ffd166"
GOOD, WARN, BAD, OFF = "#3ddc84", "#ffb020", "#ff5c5c", "#5b6670"
LIGHTS = {"green": GOOD, "yellow": WARN, "red": BAD, "off": OFF}

CSS = f"""
body {{ background: #0b0e11; color: {INK}; font-family: system-ui, sans-serif; }}
.nicegui-content {{ padding: 0; gap: 0; height: 100vh; }}
.emc-header {{ height: 48px; border-bottom: 1px solid {LINE}; padding: 0 16px; width: 100%; }}
.emc-title {{ font-weight: 600; font-size: 17px; letter-spacing: .02em; }}
.emc-main {{ display: grid; grid-template-columns: minmax(0, 1fr) 430px; width: 100%;
             height: calc(100vh - 48px); }}
.emc-left {{ display: flex; flex-direction: column; min-width: 0; height: 100%; }}
.frame-canvas {{ flex: 1 1 auto; min-height: 0; width: 100%; height: 100%; overflow: hidden; }}
.frame-canvas canvas {{ display: block; width: 100%; height: 100%; cursor: crosshair;
                        touch-action: none; }}
.emc-caption {{ height: 30px; padding: 0 14px; color: {FAINT}; font-size: 13px;
                white-space: nowrap; overflow: hidden; text-overflow: ellipsis; width: 100%; }}
.emc-tools {{ min-height: 46px; padding: 4px 14px; border-top: 1px solid {LINE}; width: 100%; }}
.emc-right {{ border-left: 1px solid {LINE}; padding: 14px 16px; overflow-y: auto; height: 100%; }}
.emc-panel {{ width: 100%; border-bottom: 1px solid {LINE}; padding-bottom: 12px;
              margin-bottom: 12px; }}
.emc-heading {{ font-size: 12px; text-transform: uppercase; letter-spacing: .08em;
                color: {FAINT}; }}
.emc-figure {{ font-size: 25px; font-variant-numeric: tabular-nums; line-height: 1.15; }}
.emc-note {{ font-size: 13px; color: {FAINT}; }}
.emc-light {{ width: 10px; height: 10px; border-radius: 50%; flex: none; }}
.emc-problem {{ font-size: 13px; overflow-wrap: anywhere; }}
@media (max-width: 1000px) {{ .emc-main {{ grid-template-columns: 1fr; height: auto; }}
  .emc-left {{ height: 70vh; }} .emc-right {{ border-left: none; height: auto; }} }}
"""
