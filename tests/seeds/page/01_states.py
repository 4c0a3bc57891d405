from pythia.core.lifecycle import WorkerState

# Available worker states
WorkerState.INITIALIZING # Setting up configuration and connections
WorkerState.STARTING # Running startup hooks
WorkerState.RUNNING # Processing messages
WorkerState.STOPPING # Graceful shutdown in progress
WorkerState.STOPPED # Worker has stopped
WorkerState.ERROR # Worker encountered an error
