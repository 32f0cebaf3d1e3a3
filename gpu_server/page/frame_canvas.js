// The NiceGUI component around the plain viewer module.

import { FrameViewer } from "emcopilot-frame-viewer";

export default {
  template: '<div class="frame-canvas"><canvas role="img" aria-label="live frame with outlines"></canvas></div>',
  props: { feed: String, options: Object },
  mounted() {
    // What is on the screen, for tests and for whoever looks at the page with a script.
    const shown = this.$el.dataset;
    this.viewer = new FrameViewer(this.$el.querySelector("canvas"), {
      onFrame: (header) => {
        shown.seq = header.seq;
        shown.frame = header.frame_id;
        shown.particles = header.particles;
        shown.doubtful = header.doubtful;
        this.$emit("frame", header);
      },
      onHover: (text) => { shown.hover = text; },
      onView: ({ scale, x, y }) => { shown.view = [scale, x, y].join(" "); },
      onState: (state) => { shown.state = state; },
    });
    if (this.options) this.viewer.set(this.options);
    const protocol = location.protocol === "https:" ? "wss" : "ws";
    this.viewer.follow(`${protocol}://${location.host}${this.feed}`);
  },
  unmounted() {
    this.viewer.destroy();
  },
  watch: {
    options(options) {
      this.viewer.set(options);
    },
  },
  methods: {
    fit() {
      this.viewer.fit();
    },
  },
};
