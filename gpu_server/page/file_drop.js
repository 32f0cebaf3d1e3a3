// Files dropped anywhere on the page, or chosen, go to the server one after the other: images to
// be measured, a model's archive to be imported.

const template = `
<div class="emc-drop" :class="{ over }">
  <input type="file" multiple hidden ref="chooser" :accept="accept" @change="choose">
  <div v-if="over" class="emc-drop-plate">
    <div>Drop image files to measure them in session “{{ session }}”,<br>or the .zip of a model to import it</div>
  </div>
  <div v-if="files.length" class="emc-uploads" role="status" data-part="uploads">
    <div v-for="file in files" :key="file.id" class="emc-upload">
      <span class="emc-upload-name">{{ file.name }}</span>
      <span class="emc-note" :class="{ 'emc-warning': file.failed }">{{ file.state }}</span>
    </div>
    <button type="button" class="emc-tool" v-if="idle" @click="files = []">Close</button>
  </div>
</div>`;

let numbers = 0;
const isArchive = (file) => /\.zip$/i.test(file.name);

export default {
  template,
  props: { images: String, models: String, session: String, allowed: Boolean },
  data: () => ({ over: false, files: [], idle: true, accept: "" }),
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
    async open(accept) {
      this.accept = accept;
      await this.$nextTick();
      this.$refs.chooser.click();
    },
    choose(event) {
      this.send([...event.target.files]);
      event.target.value = "";
    },
    async send(files) {
      await this.sendImages(files.filter((file) => !isArchive(file)));
      for (const file of files.filter(isArchive)) await this.sendArchive(file);
    },
    async sendImages(files) {
      if (!files.length) return;
      const rows = files.map((file) => ({ id: (numbers += 1), name: file.name, state: "waits", failed: false }));
      this.files = [...rows, ...this.files].slice(0, 50);
      this.idle = false;
      for (const [i, file] of files.entries()) {
        const row = this.files.find((one) => one.id === rows[i].id) ?? rows[i];
        row.state = "sending";
        const asked = new URLSearchParams({ session: this.session, name: file.name });
        const { refused } = await this.post(`${this.images}?${asked}`, file);
        row.failed = Boolean(refused);
        row.state = refused || "stored; it is measured now";
      }
      this.idle = true;
    },
    async sendArchive(file) {
      const name = file.name.slice(0, 200);
      this.$emit("archive", { name });
      const { told, refused } = await this.post(this.models, file);
      this.$emit("archive", refused ? { name, refused } : { name, model_id: told.model_id });
    },
    // Resolves with what the server told, or with why it refused.
    async post(address, file) {
      try {
        const answer = await fetch(address, {
          method: "POST", body: file,
          headers: { "x-emc-csrf": "1", "content-type": "application/octet-stream" },
        });
        const told = await answer.json().catch(() => ({}));
        return answer.ok ? { told } : { refused: told.detail ?? `the server answered ${answer.status}` };
      } catch {
        return { refused: "the connection broke; try again" };
      }
    },
  },
};
