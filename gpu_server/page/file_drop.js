// Files dropped anywhere on the page, or chosen, go to the server one after the other.

const template = `
<div class="emc-drop" :class="{ over }">
  <input type="file" multiple hidden ref="chooser" @change="choose">
  <div v-if="over" class="emc-drop-plate">Drop image files to measure them in session “{{ session }}”</div>
  <div v-if="files.length" class="emc-uploads" role="status" data-part="uploads">
    <div v-for="file in files" :key="file.id" class="emc-upload">
      <span class="emc-upload-name">{{ file.name }}</span>
      <span class="emc-note" :class="{ 'emc-warning': file.failed }">{{ file.state }}</span>
    </div>
    <button type="button" class="emc-tool" v-if="idle" @click="files = []">Close</button>
  </div>
</div>`;

let numbers = 0;

export default {
  template,
  props: { address: String, session: String, allowed: Boolean },
  data: () => ({ over: false, files: [], idle: true }),
  mounted() {
    this.depth = 0;
    const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    this.listeners = {
      dragenter: (event) => {
        if (!carriesFiles(event)) return;
        event.preventDefault();
        this.depth += 1;
        this.over = this.allowed;
      },
      dragover: (event) => { if (carriesFiles(event)) event.preventDefault(); },
      dragleave: () => {
        this.depth = Math.max(0, this.depth - 1);
        if (this.depth === 0) this.over = false;
      },
      drop: (event) => {
        if (!carriesFiles(event)) return;
        event.preventDefault(); // else the browser leaves the page to show the file
        this.depth = 0;
        this.over = false;
        if (this.allowed) this.send([...event.dataTransfer.files]);
      },
    };
    for (const [name, hear] of Object.entries(this.listeners)) window.addEventListener(name, hear);
  },
  unmounted() {
    for (const [name, hear] of Object.entries(this.listeners)) window.removeEventListener(name, hear);
  },
  methods: {
    open() {
      this.$refs.chooser.click();
    },
    choose(event) {
      this.send([...event.target.files]);
      event.target.value = "";
    },
    async send(files) {
      const rows = files.map((file) => ({ id: (numbers += 1), name: file.name, state: "waits", failed: false }));
      this.files = [...rows, ...this.files].slice(0, 50);
      this.idle = false;
      for (const [i, file] of files.entries()) {
        const row = this.files.find((one) => one.id === rows[i].id) ?? rows[i];
        row.state = "sending";
        const refused = await this.post(file);
        row.failed = Boolean(refused);
        row.state = refused || "stored; it is measured now";
      }
      this.idle = true;
      this.$emit("sent", files.length);
    },
    async post(file) {
      const asked = new URLSearchParams({ session: this.session, name: file.name });
      try {
        const answer = await fetch(`${this.address}?${asked}`, {
          method: "POST", body: file,
          headers: { "x-emc-csrf": "1", "content-type": "application/octet-stream" },
        });
        if (answer.ok) return "";
        const told = await answer.json().catch(() => ({}));
        return told.detail ?? `the server answered ${answer.status}`;
      } catch {
        return "the connection broke; try again";
      }
    },
  },
};
