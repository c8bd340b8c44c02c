// A device that uses mqtt.js: `node mqttjs_client.js PORT VERSION BASE`, VERSION 4 (3.1.1) or 5.
// Asks one question, puts the answer together by the receiver's rule, and prints what it has as JSON.
const mqtt = require(process.env.MQTTJS)
const [port, version, base] = process.argv.slice(2)
const topic = `${base}/response/js/r1`
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, { protocolVersion: Number(version), reconnectPeriod: 0 })
const said = { text: '', types: [], correlations: [] }
let buffer = Buffer.alloc(0)
let isOver = false

client.on('message', (_topic, payload, packet) => {
  const frame = JSON.parse(payload)
  said.types.push(frame.type)
  if (packet.properties?.correlationData) said.correlations.push(packet.properties.correlationData.toString())
  if (frame.type === 'delta' && frame.off === buffer.length) buffer = Buffer.concat([buffer, Buffer.from(frame.text)])
  if (frame.type === 'snapshot') buffer = Buffer.from(frame.text)
  if (frame.type !== 'done' && frame.type !== 'error') return
  console.log(JSON.stringify({ ...said, text: buffer.toString(), end: frame }))
  isOver = true
  client.end()
})
client.subscribe(topic, { qos: 1 }, () => {
  const properties = { responseTopic: topic, correlationData: Buffer.from('c-7'), contentType: 'application/json' }
  const request = { v: 1, id: 'r1', prompt: 'a LONG story', max_tokens: 60, reply_qos: 1 }
  client.publish(`${base}/request/js`, JSON.stringify(request), { qos: 1, ...(version === '5' && { properties }) })
})
// The broker may close the socket on what was in flight when we left: that is no error.
client.on('error', (error) => {
  if (isOver) return
  console.error(error.message)
  process.exit(1)
})
