// The NiceGUI component around the plain viewer module.

import { FrameViewer } from "emcopilot-frame-viewer";

export default {
  template: '<div class="frame-canvas"><canvas aria-label="live frame with outlines"></canvas></div>',
  props: { feed: String },
  mounted() {
    this.viewer = new FrameViewer(this.$el.querySelector("canvas"), {
      onFrame: (header) => {
        this.$el.dataset.seq = header.seq;
        this.$el.dataset.particles = header.particles;
        this.$emit("frame", header);
      },
      onHover: (text) => {
        this.$el.dataset.hover = text ?? "";
      },
      onState: (state) => {
        this.$el.dataset.state = state;
        this.$emit("state", state);
      },
    });
    const protocol = location.protocol === "https:" ? "wss" : "ws";
    this.viewer.follow(`${protocol}://${location.host}${this.feed}`);
  },
  unmounted() {
    this.viewer.destroy();
  },
  methods: {
    fit() {
      this.viewer.fit();
    },
    set(options) {
      this.viewer.set(options);
    },
  },
};
